// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda_emulator/traffic.h"

#include "cuda_runtime.h"

#include <algorithm>
#include <list>
#include <stdio.h>
#include <unistd.h>
#include <unordered_map>
#include <vector>

struct request {
    struct instruction *instruction;
    uint64_t order;
    uint32_t lanes;
    uintptr_t address[EMULATOR_WARP]; // of shared memory the offset in its array
};

struct instruction {
    uintptr_t at;
    size_t bytes;
    bool shared, write;
    uint32_t executed[EMULATOR_WARP];
    std::vector<struct request> requests;
};

// Which bytes of a sector a launch has read before it wrote them, and has written.
struct sector_bytes {
    uint32_t read, written;
};

struct cached {
    uintptr_t sector;
    bool dirty;
};

static struct {
    traffic_table table;
    struct traffic_kernel *kernel; // that runs
    // Of the block that runs, by warp and instruction.
    std::unordered_map<uintptr_t, struct instruction> warps[EMULATOR_THREADS_LIMIT / EMULATOR_WARP];
    uint64_t order;
    std::unordered_map<uintptr_t, struct sector_bytes> touched; // of the launch
    std::list<struct cached> cache;                             // used last first
    std::unordered_map<uintptr_t, std::list<struct cached>::iterator> places;
    size_t cache_sectors;
} traffic;

// --- what threads do ---

static void record(uintptr_t at, uintptr_t address, size_t bytes, bool shared, bool write)
{
    const unsigned number = emulator_current->number, lane = number % EMULATOR_WARP;
    struct instruction *instruction = &traffic.warps[number / EMULATOR_WARP][at * 2 + shared];
    instruction->at = at;
    instruction->bytes = bytes;
    instruction->shared = shared;
    instruction->write = write;
    const uint32_t times = instruction->executed[lane]++;
    if (times == instruction->requests.size())
        instruction->requests.push_back({instruction, traffic.order++, 0, {}});
    struct request *request = &instruction->requests[times];
    request->lanes |= 1u << lane;
    request->address[lane] = address;
}

static void observe_global(const void *at, const void *address, size_t bytes, bool write)
{
    if (traffic.kernel && emulator_is_device(address))
        record((uintptr_t)at, (uintptr_t)address, bytes, false, write);
}

static void observe_shared(const void *at, size_t offset, size_t bytes, bool write)
{
    if (traffic.kernel)
        record((uintptr_t)at, offset, bytes, true, write);
}

// --- what the cache does ---

static void evict(void)
{
    traffic.kernel->moved += traffic.cache.back().dirty ? TRAFFIC_SECTOR : 0;
    traffic.places.erase(traffic.cache.back().sector);
    traffic.cache.pop_back();
}

static void touch_sector(uintptr_t sector, bool write)
{
    const auto place = traffic.places.find(sector);
    if (place != traffic.places.end()) {
        place->second->dirty |= write;
        traffic.cache.splice(traffic.cache.begin(), traffic.cache, place->second);
        return;
    }
    traffic.kernel->moved += write ? 0 : TRAFFIC_SECTOR;
    traffic.kernel->from_memory += write ? 0 : TRAFFIC_SECTOR;
    traffic.cache.push_front({sector, write});
    traffic.places[sector] = traffic.cache.begin();
    if (traffic.cache.size() > traffic.cache_sectors)
        evict();
}

// --- requests of warps ---

static void add(struct traffic_count *to, const struct traffic_count *more)
{
    to->requests += more->requests;
    to->lanes += more->lanes;
    to->asked += more->asked;
    to->useful += more->useful;
    to->sectors += more->sectors;
    to->shared_requests += more->shared_requests;
    to->wavefronts += more->wavefronts;
    to->wavefronts_at_best += more->wavefronts_at_best;
}

typedef std::vector<std::pair<uintptr_t, uint32_t>> sector_list; // sector, which of its bytes

static sector_list sectors_of(const struct request *request)
{
    sector_list sectors;
    for (unsigned lane = 0; lane < EMULATOR_WARP; lane++) {
        if (!(request->lanes >> lane & 1))
            continue;
        for (size_t i = 0; i < request->instruction->bytes; i++) {
            const uintptr_t byte = request->address[lane] + i, sector = byte / TRAFFIC_SECTOR;
            if (sectors.empty() || sectors.back().first != sector)
                sectors.push_back({sector, 0});
            sectors.back().second |= 1u << byte % TRAFFIC_SECTOR;
        }
    }
    std::sort(sectors.begin(), sectors.end());
    size_t kept = 0;
    for (size_t i = 1; i < sectors.size(); i++)
        if (sectors[i].first == sectors[kept].first)
            sectors[kept].second |= sectors[i].second;
        else
            sectors[++kept] = sectors[i];
    sectors.resize(sectors.empty() ? 0 : kept + 1);
    return sectors;
}

static struct traffic_count count_global(const struct request *request)
{
    struct traffic_count count = {};
    const bool write = request->instruction->write;
    count.requests = 1;
    count.lanes = (uint64_t)__builtin_popcount(request->lanes);
    count.asked = count.lanes * request->instruction->bytes;
    for (const auto &each : sectors_of(request)) {
        struct sector_bytes *bytes = &traffic.touched[each.first];
        if (write)
            bytes->written |= each.second;
        else
            bytes->read |= each.second & ~bytes->written;
        count.sectors++;
        count.useful += (uint64_t)__builtin_popcount(each.second);
        touch_sector(each.first, write);
    }
    return count;
}

// Different words that the busiest bank gives to lanes [first, first + lanes).
static unsigned busiest_bank(const struct request *request, unsigned first, unsigned lanes)
{
    std::vector<uintptr_t> words;
    unsigned per_bank[TRAFFIC_BANKS] = {}, most = 0;
    for (unsigned lane = first; lane < first + lanes; lane++) {
        if (!(request->lanes >> lane & 1))
            continue;
        const uintptr_t begin = request->address[lane],
                        last = begin + request->instruction->bytes - 1;
        for (uintptr_t word = begin / TRAFFIC_BANK_BYTES; word <= last / TRAFFIC_BANK_BYTES; word++)
            words.push_back(word);
    }
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    for (uintptr_t word : words)
        most = std::max(most, ++per_bank[word % TRAFFIC_BANKS]);
    return most;
}

static struct traffic_count count_shared(const struct request *request)
{
    const size_t bytes = request->instruction->bytes;
    const unsigned together = bytes > 8 ? 8 : bytes > 4 ? 16 : 32;
    struct traffic_count count = {};
    count.shared_requests = 1;
    for (unsigned first = 0; first < EMULATOR_WARP; first += together) {
        const unsigned wavefronts = busiest_bank(request, first, together);
        count.wavefronts += wavefronts;
        count.wavefronts_at_best += wavefronts > 0;
    }
    return count;
}

static void end_block(void)
{
    std::vector<const struct request *> requests;
    if (!traffic.kernel)
        return;
    for (auto &warp : traffic.warps)
        for (const auto &instruction : warp)
            for (const struct request &request : instruction.second.requests)
                requests.push_back(&request);
    std::sort(requests.begin(), requests.end(),
              [](const struct request *a, const struct request *b) { return a->order < b->order; });
    for (const struct request *request : requests) {
        const struct traffic_count count =
            request->instruction->shared ? count_shared(request) : count_global(request);
        add(&traffic.kernel->all, &count);
        add(&traffic.kernel->instructions[request->instruction->at], &count);
    }
    for (auto &warp : traffic.warps)
        warp.clear();
    traffic.kernel->blocks++;
}

// --- launches ---

// "(name<THREADS, 8>)" is called name.
static std::string bare_name(const char *kernel)
{
    const char *begin = kernel + (*kernel == '(');
    return std::string(begin, strcspn(begin, "<)"));
}

static void begin_launch(const char *kernel, unsigned threads)
{
    traffic.kernel = &traffic.table[bare_name(kernel)];
    traffic.kernel->launches++;
    traffic.kernel->threads = threads;
}

static void end_launch(void)
{
    while (!traffic.cache.empty())
        evict();
    for (const auto &each : traffic.touched)
        traffic.kernel->floor += (uint64_t)(__builtin_popcount(each.second.read) +
                                            __builtin_popcount(each.second.written));
    traffic.touched.clear();
    traffic.kernel = NULL;
}

static const struct emulator_observer observer = {begin_launch, end_block, end_launch,
                                                  observe_global, observe_shared};

void traffic_begin(size_t cache_bytes)
{
    traffic.table.clear();
    traffic.cache_sectors = cache_bytes / TRAFFIC_SECTOR;
    emulator_observed = &observer;
}

traffic_table traffic_end(void)
{
    emulator_observed = NULL;
    return traffic.table;
}

// --- answers ---

double traffic_efficiency(const struct traffic_count *count)
{
    return count->sectors ? (double)count->useful / (double)(count->sectors * TRAFFIC_SECTOR) : 1;
}

double traffic_lane_bytes(const struct traffic_count *count)
{
    return count->lanes ? (double)count->asked / (double)count->lanes : 0;
}

double traffic_conflicts(const struct traffic_count *count)
{
    return count->wavefronts ? (double)count->wavefronts / (double)count->wavefronts_at_best : 1;
}

static double wasted(const struct traffic_count *count)
{
    return (double)(count->sectors * TRAFFIC_SECTOR - count->useful) +
           (double)(count->wavefronts - count->wavefronts_at_best) * TRAFFIC_BANKS *
               TRAFFIC_BANK_BYTES;
}

// Innermost first, of the functions that were compiled into one another. A return address is behind
// the call.
static std::string source_line(uintptr_t at)
{
    extern char __executable_start;
    char command[512], line[512], path[256];
    std::string found = "?";
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0)
        return found;
    path[length] = '\0';
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", path,
             (size_t)(at - 1 - (uintptr_t)&__executable_start));
    FILE *pipe = popen(command, "r");
    while (pipe && fgets(line, sizeof line, pipe)) {
        line[strcspn(line, " \n")] = '\0';
        const char *name = strrchr(line, '/');
        found = name ? name + 1 : line;
        if (found.rfind("cuda_runtime.h", 0) != 0)
            break;
    }
    if (pipe)
        pclose(pipe);
    return found;
}

void traffic_print_worst(const struct traffic_kernel *kernel, size_t limit)
{
    std::vector<std::pair<double, uintptr_t>> order;
    for (const auto &each : kernel->instructions)
        if (wasted(&each.second) > 0)
            order.push_back({-wasted(&each.second), each.first});
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size() && i < limit; i++) {
        const struct traffic_count *count = &kernel->instructions.at(order[i].second);
        printf("    %s: %zu requests of %.1f bytes a lane, %.0f%% of their sectors used; %zu of "
               "shared memory, wavefronts %.2f times as many as at best\n",
               source_line(order[i].second).c_str(), (size_t)count->requests,
               traffic_lane_bytes(count), 100 * traffic_efficiency(count),
               (size_t)count->shared_requests, traffic_conflicts(count));
    }
}

// --- callbacks of -fsanitize=thread ---

#define READ_AND_WRITE(bytes)                                                                      \
    void __tsan_read##bytes(void *address)                                                         \
    {                                                                                              \
        observe_global(__builtin_return_address(0), address, bytes, false);                        \
    }                                                                                              \
    void __tsan_write##bytes(void *address)                                                        \
    {                                                                                              \
        observe_global(__builtin_return_address(0), address, bytes, true);                         \
    }                                                                                              \
    void __tsan_unaligned_read##bytes(void *address)                                               \
    {                                                                                              \
        observe_global(__builtin_return_address(0), address, bytes, false);                        \
    }                                                                                              \
    void __tsan_unaligned_write##bytes(void *address)                                              \
    {                                                                                              \
        observe_global(__builtin_return_address(0), address, bytes, true);                         \
    }

extern "C" {
void __tsan_init(void)
{
}
READ_AND_WRITE(1)
READ_AND_WRITE(2)
READ_AND_WRITE(4)
READ_AND_WRITE(8)
READ_AND_WRITE(16)
void __tsan_read_range(void *address, size_t bytes)
{
    observe_global(__builtin_return_address(0), address, bytes, false);
}
void __tsan_write_range(void *address, size_t bytes)
{
    observe_global(__builtin_return_address(0), address, bytes, true);
}
void __tsan_vptr_update(void **, void *)
{
}
}
