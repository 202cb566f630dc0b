// SPDX-License-Identifier: Apache-2.0
// How runs are started: mpirun with PMIx, and Slurm with its signals and requeueing.
#include "base/mem.h"
#include "jobs/doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAUNCH_SECONDS 60.0
#define ASK_SECONDS 15.0
#define LEAST_KILL_WAIT 10

static bool is_launched(void)
{
    return getenv("PMIX_RANK") || getenv("OMPI_COMM_WORLD_RANK") || getenv("PMI_RANK");
}

static void describe_launch(const struct doctor *doctor, struct doctor_result *out)
{
    const int ranks = group_size(doctor->group), here = group_local_size(doctor->group);
    const bool knows = getenv("PMIX_RANK") != NULL || getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    const char *world = getenv("OMPI_COMM_WORLD_SIZE");
    if (world && atoi(world) != ranks) {
        doctor_say(out, DOCTOR_FAIL, "mpirun started %s ranks, but MPI sees %d", world, ranks);
        doctor_fix(out, "mpirun and memo use different MPI libraries: which mpirun, ldd memo");
        return;
    }
    doctor_say(out, knows ? DOCTOR_OK : DOCTOR_WARN, "%d ranks, %d on this host, %s", ranks, here,
               knows ? "with PMIx" : "without PMIx");
    if (!knows)
        doctor_fix(out, "srun --mpi=pmix, or mpirun inside the allocation");
}

// Two ranks of this program itself.
static void try_launch(struct doctor *doctor, struct doctor_result *out)
{
    char text[2048], *program = mem_strdup(doctor->program);
    char *argv[16];
    int count = 0;
    argv[count++] = "mpirun";
    if (geteuid() == 0)
        argv[count++] = "--allow-run-as-root";
    argv[count++] = "--oversubscribe";
    argv[count++] = "--bind-to";
    argv[count++] = "none";
    argv[count++] = "-np";
    argv[count++] = "2";
    argv[count++] = program;
    argv[count++] = "doctor";
    argv[count++] = "--launched";
    argv[count] = NULL;
    const bool well = doctor_run(argv, LAUNCH_SECONDS, text, sizeof(text));
    if (well && strstr(text, "2 ranks")) {
        doctor_say(out, DOCTOR_OK, "mpirun starts two ranks that see each other");
    } else if (well) {
        doctor_say(out, DOCTOR_FAIL, "mpirun started two ranks that do not see each other");
        doctor_fix(out, "mpirun and memo use different MPI libraries: which mpirun, ldd memo");
    } else {
        text[strcspn(text, "\n")] = '\0';
        doctor_say(out, DOCTOR_FAIL, "mpirun could not start two ranks: %.200s", text);
        doctor_fix(out, "try it by hand: mpirun -np 2 memo doctor --launched");
    }
    free(program);
}

static void check_mpi(struct doctor *doctor, struct doctor_result *out)
{
    if (strcmp(group_transport(doctor->group), "tcp") == 0) {
        doctor_say(out, DOCTOR_OK, "%d ranks, %d on this host, over TCP without MPI",
                   group_size(doctor->group), group_local_size(doctor->group));
    } else if (is_launched()) {
        describe_launch(doctor, out);
    } else if (doctor_finds("mpirun")) {
        try_launch(doctor, out);
    } else if (doctor_finds("srun")) {
        doctor_say(out, DOCTOR_WARN, "no mpirun on the PATH");
        doctor_fix(out, "srun --mpi=pmix starts ranks too; for mpirun load the module of Open MPI");
    } else {
        doctor_say(out, DOCTOR_FAIL, "no mpirun on the PATH: jobs of several ranks cannot start");
        doctor_fix(out, "load the module of Open MPI, or install it (apt-get install openmpi-bin)");
    }
}

static void check_ranks(struct doctor *doctor, struct doctor_result *out)
{
    struct error err;
    const int ranks = group_size(doctor->group);
    int *local = mem_calloc((size_t)ranks, sizeof(*local));
    const int mine = group_local_size(doctor->group);
    int least = mine, most = mine;
    if (group_all_gather(doctor->group, local, &mine, sizeof(mine), &err)) {
        doctor_say(out, DOCTOR_FAIL, "%s", err.text);
    } else {
        for (int r = 0; r < ranks; r++) {
            least = local[r] < least ? local[r] : least;
            most = local[r] > most ? local[r] : most;
        }
        doctor_say(out, least == most ? DOCTOR_OK : DOCTOR_WARN, "%d to %d ranks per node", least,
                   most);
        if (least == most)
            doctor_say(out, DOCTOR_OK, "%d ranks per node", most);
        else
            doctor_fix(
                out,
                "nodes with fewer ranks idle: --ntasks-per-node, or mpirun --map-by ppr:N:node");
    }
    free(local);
}

// The value behind "NAME = " or "NAME=" in what scontrol prints; false: not there.
static bool find_value(const char *text, const char *name, char *out, size_t out_bytes)
{
    const size_t length = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at += length) {
        const bool begins = at == text || at[-1] == '\n' || at[-1] == ' ';
        const char *value = at + length + strspn(at + length, " ");
        if (!begins || *value != '=')
            continue;
        value += 1 + strspn(value + 1, " ");
        snprintf(out, out_bytes, "%.*s", (int)strcspn(value, " \n"), value);
        return true;
    }
    return false;
}

static void check_slurm(struct doctor *doctor, struct doctor_result *out)
{
    static char text[65536];
    char *const argv[] = {"scontrol", "show", "config", NULL};
    char requeue[32] = "", wait[32] = "";
    (void)doctor;
    if (!doctor_finds("scontrol")) {
        doctor_say(out, DOCTOR_OK, "no Slurm here");
    } else if (!doctor_run(argv, ASK_SECONDS, text, sizeof(text))) {
        // tools without a cluster are no failure of a machine that runs no jobs
        doctor_say(out, getenv("SLURM_JOB_ID") ? DOCTOR_FAIL : DOCTOR_WARN,
                   "scontrol show config: %.*s", (int)strcspn(text, "\n"), text);
        doctor_fix(out, "the controller does not answer: scontrol ping, systemctl status munge");
    } else if (find_value(text, "JobRequeue", requeue, sizeof(requeue)) && requeue[0] == '0') {
        doctor_say(out, DOCTOR_WARN, "jobs are not requeued unless they ask (JobRequeue = 0)");
        doctor_fix(out, "sbatch --requeue, as slurm/generate.sbatch does");
    } else if (find_value(text, "KillWait", wait, sizeof(wait)) && atoi(wait) < LEAST_KILL_WAIT) {
        doctor_say(out, DOCTOR_WARN, "KillWait is %s s: little time between TERM and KILL", wait);
        doctor_fix(out, "rely on the earlier signal: sbatch --signal=B:USR2@300, as slurm/ does");
    } else {
        doctor_say(out, DOCTOR_OK, "the controller answers, jobs may be requeued");
    }
}

static void check_slurm_mpi(struct doctor *doctor, struct doctor_result *out)
{
    char text[4096];
    char *const argv[] = {"srun", "--mpi=list", NULL};
    (void)doctor;
    if (!doctor_finds("srun")) {
        doctor_say(out, DOCTOR_OK, "no Slurm here");
    } else if (!doctor_run(argv, ASK_SECONDS, text, sizeof(text)) || !strstr(text, "pmix")) {
        doctor_say(out, DOCTOR_WARN, "srun has no PMIx");
        doctor_fix(out, "start ranks with mpirun inside the allocation, as slurm/ does, or without "
                        "MPI: srun --mpi=none memo train --rendezvous DIR");
    } else {
        doctor_say(out, DOCTOR_OK, "srun --mpi=pmix is there");
    }
}

static void check_slurm_job(struct doctor *doctor, struct doctor_result *out)
{
    static char text[65536];
    const char *job = getenv("SLURM_JOB_ID");
    char requeue[32] = "", *number = mem_strdup(job ? job : "");
    char *const argv[] = {"scontrol", "show", "job", number, NULL};
    if (!job) {
        doctor_say(out, DOCTOR_OK, "not inside a job");
    } else if (group_rank(doctor->group) != 0) {
        doctor_say(out, DOCTOR_OK, "rank 0 asks");
    } else if (!doctor_run(argv, ASK_SECONDS, text, sizeof(text))) {
        doctor_say(out, DOCTOR_WARN, "scontrol show job %s: %.*s", job, (int)strcspn(text, "\n"),
                   text);
        doctor_fix(out, "the controller does not answer from here; the job cannot requeue itself");
    } else if (find_value(text, "Requeue", requeue, sizeof(requeue)) && requeue[0] == '0') {
        doctor_say(out, DOCTOR_FAIL, "job %s may not be requeued", job);
        doctor_fix(out, "sbatch --requeue: a run of several time limits needs it");
    } else {
        doctor_say(out, DOCTOR_OK, "job %s may be requeued", job);
    }
    free(number);
}

const struct doctor_check doctor_cluster_checks[] = {
    {"MPI", check_mpi},
    {"ranks per node", check_ranks},
    {"Slurm", check_slurm},
    {"Slurm and PMIx", check_slurm_mpi},
    {"Slurm job", check_slurm_job},
    {NULL, NULL},
};
