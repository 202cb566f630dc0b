// SPDX-License-Identifier: Apache-2.0
#include "tests/http/scripted.h"

#include "base/json.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SERVER MEMO_SOURCE_DIRECTORY "/tests/http/scripted_server.py"
#define WORDS_LIMIT 64

bool scripted_is_possible(void)
{
    if (system("python3 -c 'import sys, asyncio; sys.exit(sys.version_info < (3, 9))' "
               "> /dev/null 2>&1") == 0)
        return true;
    printf("skipped: python3 (at least 3.9) is not installed\n");
    return false;
}

static void run_server(const char *options, int input, int output)
{
    char *argv[WORDS_LIMIT] = {"python3", SERVER}, *rest = mem_strdup(options), *word;
    size_t count = 2;
    while ((word = strsep(&rest, " ")) && count + 1 < WORDS_LIMIT)
        if (word[0])
            argv[count++] = word;
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    execvp(argv[0], argv);
    _exit(127);
}

static int read_port(int descriptor)
{
    char line[16] = "";
    size_t length = 0;
    while (length + 1 < sizeof(line) && read(descriptor, line + length, 1) == 1 &&
           line[length] != '\n')
        length++;
    return atoi(line);
}

struct scripted scripted_start(const char *options)
{
    struct scripted server;
    int input[2], output[2];
    assert_int_equal(pipe2(input, O_CLOEXEC), 0);
    assert_int_equal(pipe2(output, O_CLOEXEC), 0);
    server.pid = fork();
    assert_true(server.pid >= 0);
    if (server.pid == 0)
        run_server(options, input[0], output[1]);
    close(input[0]);
    close(output[1]);
    server.input = input[1];
    server.port = read_port(output[0]);
    close(output[0]);
    assert_true(server.port > 0);
    return server;
}

void scripted_kill(struct scripted *server)
{
    if (server->pid <= 0)
        return;
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    close(server->input);
    server->pid = 0;
}

char *scripted_url(const struct scripted *server)
{
    return mem_printf("http://127.0.0.1:%d/v1", server->port);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context)
{
    strbuf_add(context, bytes, size * count);
    return size * count;
}

static const struct json *get_statistics(const struct scripted *server, struct arena *arena)
{
    const struct json *root;
    struct strbuf body = {0};
    char *url = mem_printf("http://127.0.0.1:%d/statistics", server->port);
    CURL *easy = curl_easy_init();
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_TIMEOUT, 30L);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &body);
    assert_int_equal(curl_easy_perform(easy), CURLE_OK);
    curl_easy_cleanup(easy);
    assert_int_equal(json_parse(arena, body.bytes, body.length, &root, NULL), 0);
    strbuf_release(&body);
    free(url);
    return root;
}

int64_t scripted_count(const struct scripted *server, const char *name)
{
    struct arena arena = {0};
    const struct json *root = get_statistics(server, &arena);
    if (strncmp(name, "modes.", 6) == 0) {
        root = json_get(root, "modes");
        name += 6;
    }
    const struct json *count = json_get(root, name);
    const int64_t value = count ? count->integer : 0;
    arena_release(&arena);
    return value;
}

bool scripted_has_seen_key(const struct scripted *server, const char *key)
{
    struct arena arena = {0};
    const struct json *keys = json_get(get_statistics(server, &arena), "keys");
    bool found = false;
    for (size_t i = 0; keys && i < keys->length; i++)
        found |= strcmp(keys->items[i].string, key) == 0;
    arena_release(&arena);
    return found;
}
