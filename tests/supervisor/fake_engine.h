// SPDX-License-Identifier: Apache-2.0
// An engine without a model, for tests of the supervisor: the test's own binary is started again as
// `test engine` and calls fake_engine_main. It answers every request with its id's seed and its
// text turned round, a few polls after it came. The name of the "model" says how it misbehaves, and
// a word in a request what becomes of the process:
//
//     model   plain               as it should
//             refuses             cannot be opened: "no such model"
//             dies:FILE           ends with code 9 while it loads, as often as FILE has bytes, of
//                                 which it removes one each time
//             stops-loading       stops while it loads
//             changes             its digest is that of its process id
//             babbles             writes garbage instead of READY
//             talks               writes two lines on its output while it loads
//     request segv, stop, exit    see engine_fault.h; there is also
//             long                its answer has 3 MB
//             slow                its answer takes 0.3 s, during which it shows life
#ifndef MEMO_TESTS_FAKE_ENGINE_H
#define MEMO_TESTS_FAKE_ENGINE_H

#include "base/strbuf.h"
#include "worker/lm/lm.h"

#define FAKE_CAPACITY 8
#define FAKE_LONG_BYTES 3000000

// The exit code of the process.
int fake_engine_main(void);

// What the fake answers. The caller releases *out, which is reset first.
void fake_engine_answer(const struct lm_request *request, struct strbuf *out);

#endif
