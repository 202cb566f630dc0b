// SPDX-License-Identifier: Apache-2.0
#include "worker/http/base_url.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define LIMIT 4

static void check(const char *text, const char *address, const char *label)
{
    struct base_url urls[LIMIT];
    struct error err = {""};
    size_t count;
    if (base_urls_parse(text, urls, LIMIT, &count, &err))
        fail_msg("%s", err.text);
    assert_int_equal(count, 1);
    assert_string_equal(urls[0].address, address);
    assert_string_equal(urls[0].label, label);
    base_urls_release(urls, count);
}

static void addresses_are_made_of_base_urls(void **state)
{
    (void)state;
    check("http://h:8000/v1", "http://h:8000/v1/chat/completions", "http://h:8000/v1");
    check(" http://h:8000/v1/ ", "http://h:8000/v1/chat/completions", "http://h:8000/v1");
    check("https://h", "https://h/v1/chat/completions", "https://h/v1");
    check("http://h/", "http://h/v1/chat/completions", "http://h/v1");
    check("https://h/a/b", "https://h/a/b/chat/completions", "https://h/a/b");
    check("https://h/v1/chat/completions", "https://h/v1/chat/completions", "https://h/v1");
    check("http://[::1]:80/v1", "http://[::1]:80/v1/chat/completions", "http://[::1]:80/v1");
    check("https://h/v1?api-version=2#x", "https://h/v1/chat/completions?api-version=2",
          "https://h/v1");
}

static void lists_are_sorted(void **state)
{
    (void)state;
    struct base_url urls[LIMIT];
    struct error err;
    size_t count;
    assert_int_equal(
        base_urls_parse("http://b/v1, http://127.0.0.1,\n https://a", urls, LIMIT, &count, &err),
        0);
    assert_int_equal(count, 3);
    assert_string_equal(urls[0].label, "http://127.0.0.1/v1");
    assert_string_equal(urls[1].label, "http://b/v1");
    assert_string_equal(urls[2].label, "https://a/v1");
    assert_true(urls[0].is_loopback && urls[0].is_plain);
    assert_true(!urls[1].is_loopback && urls[1].is_plain);
    assert_true(!urls[2].is_loopback && !urls[2].is_plain);
    base_urls_release(urls, count);
}

static void check_refused(const char *text, const char *why)
{
    struct base_url urls[LIMIT];
    struct error err = {""};
    size_t count;
    assert_int_equal(base_urls_parse(text, urls, LIMIT, &count, &err), -1);
    assert_int_equal(count, 0);
    if (!strstr(err.text, why))
        fail_msg("'%s' does not say '%s'", err.text, why);
    assert_null(strstr(err.text, "hunter2"));
}

static void what_is_no_url_for_us_is_an_error(void **state)
{
    (void)state;
    check_refused("", "expected is a URL");
    check_refused("http://a,,http://b", "'': expected is a URL");
    check_refused("localhost:8000", "'localhost:8000': ");
    check_refused("http://", "'http://': expected is a URL");
    check_refused("http://h:99999/v1", "expected is a URL");
    check_refused("file:///etc/passwd", "only http:// and https://");
    check_refused("http://me:hunter2@h/v1", "must not hold a user or a password");
    check_refused("http://me:hunter2@:x/v1", "expected is a URL");
    check_refused("bad url?key=hunter2", "'bad': ");
    check_refused("http://a/v1,http://a", "the URL 'http://a/v1' is given twice");
    check_refused("http://a,http://b,http://c,http://d,http://e", "more than 4 URLs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_made_of_base_urls),
        cmocka_unit_test(lists_are_sorted),
        cmocka_unit_test(what_is_no_url_for_us_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
