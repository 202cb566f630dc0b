// SPDX-License-Identifier: Apache-2.0
// A plain model of what a coordinator may do: slow, obvious, and kept beside the machine under
// test. After every event both must count the same; every action must be one that the model allows.
#ifndef MEMO_TESTS_SIM_MODEL_H
#define MEMO_TESTS_SIM_MODEL_H

#include "tests/sim/world.h"

void model_start(struct sim_job *job);
void model_restore(struct sim_job *job, uint32_t task, bool aside);
void model_handle(struct sim_job *job, const struct coordinator_event *event);
void model_check_counts(struct sim_job *job);

// Actions.
void model_lease_task(struct sim_job *job, const struct coordinator_action *action);
void model_ask_backup(struct sim_job *job, uint32_t task);
void model_set_aside(struct sim_job *job, uint32_t task);
void model_drop(struct sim_job *job, const struct coordinator_action *action);
void model_stop_worker(struct sim_job *job, int worker);

// Nobody who answers may idle while tasks wait and its limit and its share have room.
void model_check_idle(struct sim_job *job);

#endif
