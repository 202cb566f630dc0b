// SPDX-License-Identifier: Apache-2.0
#include "worker/http/base_url.h"

#include "base/mem.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DEFAULT_PATH "/v1"
#define ENDPOINT_PATH "/chat/completions"

// A part of the URL, which the caller frees; NULL when it has none.
static char *get_part(CURLU *url, CURLUPart part)
{
    char *text = NULL;
    if (curl_url_get(url, part, &text, 0) != CURLUE_OK)
        return NULL;
    char *copy = mem_strdup(text);
    curl_free(text);
    return copy;
}

static bool has_part(CURLU *url, CURLUPart part)
{
    char *text = get_part(url, part);
    const bool is_there = text && text[0];
    free(text);
    return is_there;
}

// The path without "/" at its end, and without ENDPOINT_PATH.
static char *base_path(CURLU *url)
{
    char *path = get_part(url, CURLUPART_PATH);
    size_t length = path ? strlen(path) : 0;
    const size_t tail = strlen(ENDPOINT_PATH);
    while (length > 0 && path[length - 1] == '/')
        length--;
    if (length >= tail && memcmp(path + length - tail, ENDPOINT_PATH, tail) == 0)
        length -= tail;
    char *base = length > 0 ? mem_printf("%.*s", (int)length, path) : mem_strdup(DEFAULT_PATH);
    free(path);
    return base;
}

static bool is_loopback_host(const char *host)
{
    return host && (strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
                    strncmp(host, "127.", 4) == 0);
}

static int describe(CURLU *url, struct base_url *out, struct error *err)
{
    char *host = get_part(url, CURLUPART_HOST);
    char *scheme = get_part(url, CURLUPART_SCHEME);
    char *base = base_path(url);
    char *full = mem_printf("%s" ENDPOINT_PATH, base);
    out->is_loopback = is_loopback_host(host);
    out->is_plain = scheme && strcasecmp(scheme, "http") == 0;
    curl_url_set(url, CURLUPART_FRAGMENT, NULL, 0);
    if (curl_url_set(url, CURLUPART_PATH, full, 0) == CURLUE_OK)
        out->address = get_part(url, CURLUPART_URL);
    curl_url_set(url, CURLUPART_QUERY, NULL, 0);
    if (curl_url_set(url, CURLUPART_PATH, base, 0) == CURLUE_OK)
        out->label = get_part(url, CURLUPART_URL);
    free(host);
    free(scheme);
    free(base);
    free(full);
    return out->address && out->label ? 0 : error_set(err, "its path cannot be used");
}

static int check_scheme(CURLU *url, struct error *err)
{
    char *scheme = get_part(url, CURLUPART_SCHEME);
    const bool is_http =
        scheme && (strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0);
    free(scheme);
    return is_http ? 0 : error_set(err, "only http:// and https:// can be asked");
}

static int parse_one(const char *text, struct base_url *out, struct error *err)
{
    CURLU *url = curl_url();
    int rc = 0;
    if (!url || curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK)
        rc = error_set(err, "expected is a URL such as http://127.0.0.1:8000/v1");
    else if (has_part(url, CURLUPART_USER) || has_part(url, CURLUPART_PASSWORD))
        rc = error_set(err, "a URL must not hold a user or a password; the key comes from the "
                            "environment, MEMO_API_KEY");
    else
        rc = check_scheme(url, err) || describe(url, out, err) ? -1 : 0;
    curl_url_cleanup(url);
    return rc;
}

// What is shown of a URL that was not understood: nothing that may be a secret.
static int shown_bytes(const char *text)
{
    const char *at = strrchr(text, '@');
    return at ? 0 : (int)strcspn(text, "?#");
}

static int compare_addresses(const void *left, const void *right)
{
    return strcmp(((const struct base_url *)left)->address,
                  ((const struct base_url *)right)->address);
}

static int sort_unique(struct base_url *urls, size_t count, struct error *err)
{
    qsort(urls, count, sizeof(*urls), compare_addresses);
    for (size_t i = 1; i < count; i++)
        if (compare_addresses(&urls[i - 1], &urls[i]) == 0)
            return error_set(err, "the URL '%s' is given twice", urls[i].label);
    return 0;
}

static int parse_elements(char *list, struct base_url *urls, size_t limit, size_t *count,
                          struct error *err)
{
    char *rest = list, *element;
    while ((element = strsep(&rest, ","))) {
        element += strspn(element, " \t\r\n");
        element[strcspn(element, " \t\r\n")] = '\0';
        if (*count == limit)
            return error_set(err, "more than %zu URLs", limit);
        struct base_url *url = &urls[(*count)++];
        *url = (struct base_url){0};
        if (parse_one(element, url, err))
            return error_prefix(err, "'%.*s'", shown_bytes(element), element);
    }
    return sort_unique(urls, *count, err);
}

int base_urls_parse(const char *list, struct base_url *urls, size_t limit, size_t *count,
                    struct error *err)
{
    char *copy = mem_strdup(list);
    *count = 0;
    const int rc = parse_elements(copy, urls, limit, count, err);
    free(copy);
    if (rc) {
        base_urls_release(urls, *count);
        *count = 0;
    }
    return rc;
}

void base_urls_release(struct base_url *urls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(urls[i].address);
        free(urls[i].label);
    }
}
