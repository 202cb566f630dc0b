// SPDX-License-Identifier: Apache-2.0
#include "collectives/flight.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct flight_call {
    const char *transport;
    const char *call;
    uint64_t number;
    uint64_t bytes;
    uint64_t step;
    bool has_step;
    double enter; // clock_seconds
    double leave; // 0: inside
};

struct flight {
    int rank, ranks;
    double epoch; // seconds since 1970 when clock_seconds was 0
    pthread_mutex_t mutex;
    uint64_t entries; // made so far; entry e lies at calls[e % FLIGHT_CALLS]
    uint64_t step;
    bool has_step;
    struct flight_call calls[FLIGHT_CALLS];
};

static double seconds_since_1970(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

struct flight *flight_create(int rank, int ranks)
{
    struct flight *flight = mem_calloc(1, sizeof(*flight));
    flight->rank = rank;
    flight->ranks = ranks;
    flight->epoch = seconds_since_1970() - clock_seconds();
    pthread_mutex_init(&flight->mutex, NULL);
    return flight;
}

void flight_destroy(struct flight *flight)
{
    if (flight == NULL) {
        return;
    }
    pthread_mutex_destroy(&flight->mutex);
    free(flight);
}

uint64_t flight_enter(struct flight *flight, const char *transport, const char *call,
                      uint64_t number, size_t bytes)
{
    pthread_mutex_lock(&flight->mutex);
    const uint64_t entry = flight->entries++;
    flight->calls[entry % FLIGHT_CALLS] = (struct flight_call){.transport = transport,
                                                               .call = call,
                                                               .number = number,
                                                               .bytes = bytes,
                                                               .step = flight->step,
                                                               .has_step = flight->has_step,
                                                               .enter = clock_seconds()};
    pthread_mutex_unlock(&flight->mutex);
    return entry;
}

void flight_leave(struct flight *flight, uint64_t entry)
{
    pthread_mutex_lock(&flight->mutex);
    if (flight->entries - entry <= FLIGHT_CALLS) { // else another thread's calls took its place
        flight->calls[entry % FLIGHT_CALLS].leave = clock_seconds();
    }
    pthread_mutex_unlock(&flight->mutex);
}

void flight_set_step(struct flight *flight, uint64_t step)
{
    pthread_mutex_lock(&flight->mutex);
    flight->step = step;
    flight->has_step = true;
    pthread_mutex_unlock(&flight->mutex);
}

bool flight_step(struct flight *flight, uint64_t *step)
{
    pthread_mutex_lock(&flight->mutex);
    const bool has_step = flight->has_step;
    *step = flight->step;
    pthread_mutex_unlock(&flight->mutex);
    return has_step;
}

static void write_step(struct json_writer *w, bool has_step, uint64_t step)
{
    json_key(w, "step");
    if (has_step) {
        json_int(w, (int64_t)step);
    } else {
        json_null(w);
    }
}

static void write_call(struct json_writer *w, const struct flight *flight,
                       const struct flight_call *call)
{
    json_begin_object(w);
    json_key(w, "transport");
    json_text(w, call->transport);
    json_key(w, "call");
    json_text(w, call->call);
    json_key(w, "number");
    json_int(w, (int64_t)call->number);
    json_key(w, "bytes");
    json_int(w, (int64_t)call->bytes);
    write_step(w, call->has_step, call->step);
    json_key(w, "enter");
    json_number(w, flight->epoch + call->enter);
    json_key(w, "leave");
    if (call->leave != 0) {
        json_number(w, flight->epoch + call->leave);
    } else {
        json_null(w);
    }
    json_end_object(w);
}

static void write_calls(struct json_writer *w, const struct flight *flight)
{
    const uint64_t kept = flight->entries < FLIGHT_CALLS ? flight->entries : FLIGHT_CALLS;
    json_key(w, "calls");
    json_begin_array(w);
    for (uint64_t entry = flight->entries - kept; entry < flight->entries; entry++) {
        write_call(w, flight, &flight->calls[entry % FLIGHT_CALLS]);
    }
    json_end_array(w);
}

// Reasons may quote what was found in files; JSON holds only valid UTF-8.
static void write_text(struct json_writer *w, const char *key, const char *text)
{
    json_key(w, key);
    json_string(w, text, utf8_valid_prefix(text, strlen(text)));
}

static void write_record(struct json_writer *w, const struct flight *flight, const char *reason)
{
    char host[256] = "?";
    gethostname(host, sizeof(host) - 1);
    json_begin_object(w);
    json_key(w, "format");
    json_int(w, 1);
    json_key(w, "rank");
    json_int(w, flight->rank);
    json_key(w, "ranks");
    json_int(w, flight->ranks);
    write_text(w, "host", host);
    json_key(w, "pid");
    json_int(w, getpid());
    write_text(w, "reason", reason);
    json_key(w, "written");
    json_number(w, seconds_since_1970());
    write_step(w, flight->has_step, flight->step);
    write_calls(w, flight);
    json_end_object(w);
}

static char *record_path(const char *directory, int rank)
{
    return mem_printf("%s/rank-%04d.json", directory, rank);
}

int flight_write(struct flight *flight, struct fs *fs, const char *directory, const char *reason,
                 struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    pthread_mutex_lock(&flight->mutex);
    write_record(&w, flight, reason);
    pthread_mutex_unlock(&flight->mutex);
    strbuf_addc(&text, '\n');
    char *path = record_path(directory, flight->rank);
    const int rc = fs_write_text(fs, path, text.bytes, text.length, err);
    free(path);
    strbuf_release(&text);
    return rc;
}

bool flight_exists(struct fs *fs, const char *directory, int rank)
{
    char *path = record_path(directory, rank);
    const bool there = fs_exists(fs, path);
    free(path);
    return there;
}
