// SPDX-License-Identifier: Apache-2.0
#include "jobs/curves.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static struct curves parse(const char *text)
{
    struct curves curves;
    struct error err;
    if (curves_parse(text, strlen(text), &curves, &err))
        fail_msg("%s", err.text);
    return curves;
}

static void the_last_attempt_counts(void **state)
{
    (void)state;
    struct curves curves =
        parse("{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2,\"held_out_loss\":4}\n"
              "{\"step\":3,\"loss\":1}\n{\"note\":\"continued\"}\n{\"step\":2,\"loss\":2.5}\n"
              "{\"step\":3,\"lo");
    assert_int_equal(curves.loss.count, 2);
    assert_true(curves.loss.points[1].step == 2 && curves.loss.points[1].value == 2.5);
    assert_int_equal(curves.held_out_loss.count, 1);
    assert_true(curves.held_out_loss.points[0].value == 4);
    curves_release(&curves);
}

static void a_line_that_is_no_json_is_named(void **state)
{
    (void)state;
    static const char text[] = "{\"step\":1,\"loss\":3}\nrubbish\n";
    struct curves curves;
    struct error err;
    assert_int_equal(curves_parse(text, strlen(text), &curves, &err), -1);
    assert_non_null(strstr(err.text, "line 2"));
}

static void a_falling_loss_is_drawn_falling(void **state)
{
    (void)state;
    struct curves curves = parse("{\"step\":1,\"loss\":4}\n{\"step\":2,\"loss\":3}\n"
                                 "{\"step\":3,\"loss\":2}\n{\"step\":4,\"loss\":1}\n");
    struct strbuf text = {0};
    curves_plot(&curves, 12, 4, &text);
    assert_string_equal(text.bytes, "   4.000 |*   *\n"
                                    "         |        *\n"
                                    "         |           *\n"
                                    "   0.000 |\n"
                                    "         +------------\n"
                                    "          step 1   4\n");
    strbuf_release(&text);
    curves_release(&curves);
}

static void shares_have_a_drawing_of_their_own(void **state)
{
    (void)state;
    struct curves curves =
        parse("{\"step\":1,\"loss\":4}\n"
              "{\"step\":2,\"loss\":3,\"held_out_loss\":4,\"held_out_exact\":0,"
              "\"held_out_f1\":0.5}\n"
              "{\"step\":3,\"loss\":2}\n"
              "{\"step\":4,\"loss\":1,\"held_out_loss\":4,\"held_out_exact\":0.25,"
              "\"held_out_f1\":1}\n");
    struct strbuf text = {0};
    curves_plot(&curves, 12, 4, &text);
    assert_non_null(strstr(text.bytes, "held-out answers: e exact, f F1 of words\n"
                                       "    100% |           f\n"
                                       "         |    f\n"
                                       "         |           e\n"
                                       "      0% |    e\n"));
    strbuf_reset(&text);
    curves_svg(&curves, "shares", &text);
    assert_non_null(strstr(text.bytes, "<title>held-out exact match</title>"));
    assert_non_null(strstr(text.bytes, "<title>held-out token F1</title>"));
    assert_non_null(strstr(text.bytes, ">75%</text>"));
    strbuf_release(&text);
    curves_release(&curves);
}

static void one_step_and_none_are_drawn_too(void **state)
{
    (void)state;
    struct curves none = parse(""), one = parse("{\"step\":7,\"loss\":0}\n");
    struct strbuf text = {0};
    curves_plot(&none, 12, 4, &text);
    assert_string_equal(text.bytes, "no loss was recorded yet\n");
    strbuf_reset(&text);
    curves_plot(&one, 12, 4, &text);
    assert_non_null(strstr(text.bytes, "   0.000 |*\n"));
    strbuf_reset(&text);
    curves_svg(&none, "none", &text);
    assert_non_null(strstr(text.bytes, "</svg>"));
    strbuf_release(&text);
    curves_release(&none);
    curves_release(&one);
}

static void the_picture_escapes_its_title(void **state)
{
    (void)state;
    struct curves curves = parse("{\"step\":1,\"loss\":4,\"held_out_loss\":2}\n"
                                 "{\"step\":5,\"loss\":2,\"held_out_loss\":3}\n");
    struct strbuf text = {0};
    curves_svg(&curves, "a<b&c", &text);
    assert_non_null(strstr(text.bytes, ">a&lt;b&amp;c</text>"));
    assert_non_null(strstr(text.bytes, "points=\"60.0,40.0 750.0,200.0\"")); // 4, then 2 of 0 to 4
    assert_non_null(strstr(text.bytes, "<title>held-out loss</title>"));
    strbuf_release(&text);
    curves_release(&curves);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_attempt_counts),
        cmocka_unit_test(a_line_that_is_no_json_is_named),
        cmocka_unit_test(a_falling_loss_is_drawn_falling),
        cmocka_unit_test(shares_have_a_drawing_of_their_own),
        cmocka_unit_test(one_step_and_none_are_drawn_too),
        cmocka_unit_test(the_picture_escapes_its_title),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
