// SPDX-License-Identifier: Apache-2.0
// The coordinator's size: so many virtual workers and tasks in one process, with real agents and
// encoded messages, and nothing that goes wrong.
#ifndef MEMO_TESTS_SIM_SCALE_H
#define MEMO_TESTS_SIM_SCALE_H

#include <stddef.h>
#include <stdint.h>

struct sim_scale {
    size_t events; // of the state machine
    size_t actions;
    size_t messages;
    double cpu_seconds;  // of everything, agents and network too
    double peak_bytes;   // of the process
    double span_seconds; // simulated
    size_t done;
};

void sim_run_scale(size_t workers, size_t tasks, struct sim_scale *out);

#endif
