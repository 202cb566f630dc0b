# SPDX-License-Identifier: Apache-2.0
# What results.jsonl of run.sh says, as a table of text or (-v markdown=1) as the rows of kernels/BENCHMARKS.md: every
# rate with its limit, measured in the same run, its share of it, what is aimed at, and whether that was met. Of
# measurements that were repeated the last one counts.

function field(name,  at) {
    if (!match($0, "\"" name "\": *(\"[^\"]*\"|[-0-9.e+]+)")) return ""
    at = substr($0, RSTART, RLENGTH)
    sub("^\"" name "\": *", "", at)
    gsub("\"", "", at)
    return at
}

# step, beginning of what it measures, the least share of the limit ("": of no limit), the least rate (0: any)
function aim(step, what, share, rate) {
    aims++
    aim_step[aims] = step; aim_what[aims] = what; aim_share[aims] = share; aim_rate[aims] = rate
}

# The aims of H200s, by the names of run.sh's steps. The first that fits counts.
BEGIN {
    aim("training qwen2.5-1.5b", "training, 1 rank", 0.5, 0)
    aim("training qwen2.5-7b", "training, 1 rank", 0.5, 0)
    aim("training qwen2.5-14b", "training, 1 rank", 0.45, 4000)
    aim("decoding qwen2.5-32b", "prefill", 0.6, 0)
    aim("decoding qwen2.5-32b", "decode", 0.8, 0)
    aim("documents qwen2.5-32b", "engine, decoding", 0.7, 0)
    aim("kernels qwen2.5-7b", "kernel attention_forward", 0.35, 0)
    aim("kernels qwen2.5-7b", "kernel attention_backward", "", 0)
    aim("kernels qwen2.5-7b", "kernel ", 0.85, 0)
    ratio_of("fp8 beside bf16, batch 16", "decoding qwen2.5-32b in fp8", "decode, batch 16",
             "decoding qwen2.5-32b", "decode, batch 16", 1.5)
    ratio_of("training 1.5B beside torch", "training qwen2.5-1.5b", "training, 1 rank",
             "torch train", "torch training qwen2.5-1.5b", 1)
    ratio_of("training 7B beside torch", "training qwen2.5-7b", "training, 1 rank",
             "torch train", "torch training qwen2.5-7b", 1)
}

# Of two measured rates, at least so much.
function ratio_of(name, step, what, other_step, other_what, least) {
    ratios++
    ratio_name[ratios] = name; ratio_least[ratios] = least
    ratio_step[ratios] = step; ratio_what[ratios] = what
    ratio_other_step[ratios] = other_step; ratio_other_what[ratios] = other_what
}

function begins(text, with) { return substr(text, 1, length(with)) == with }

function keep(step, what, rate, unit, share, of,  key, i) {
    key = step SUBSEP what
    if (!(key in row_of)) {
        row_of[key] = ++rows
    }
    i = row_of[key]
    row_step[i] = step; row_what[i] = what; row_rate[i] = rate; row_unit[i] = unit; row_share[i] = share; row_of_what[i] = of
}

# The row of this step whose text begins so; 0: none.
function find(step, what,  i) {
    for (i = 1; i <= rows; i++)
        if (row_step[i] == step && begins(row_what[i], what)) return i
    return 0
}

/"what": *"machine"/ { machine = field("text"); date = field("date"); next }
/"what": *"clocks"/ {
    clocks++
    if (least == "" || field("sm_mhz_least") + 0 < least) least = field("sm_mhz_least") + 0
    if (field("sm_mhz_most") + 0 > most) most = field("sm_mhz_most") + 0
    if (field("power_watts_most") + 0 > power) power = field("power_watts_most") + 0
    next
}
/"what"/ {
    what = field("what"); rate = field("rate"); unit = field("unit"); share = field("share"); of = field("of")
    if (field("new_tokens") != "") {
        rate = field("tokens_per_second"); unit = "tokens/s"
        if (field("new_tokens") + 0 > 1) {
            what = what ", " field("new_tokens") " tokens"; share = field("peak_share"); of = "the product"
        } else {
            what = what ", batch " field("sequences") " at " field("position"); share = field("floor_share"); of = "the floor"
        }
    } else if (field("floor_share") != "") {
        rate = field("answer_tokens_per_second"); unit = "tokens/s"; share = field("floor_share"); of = "the floor"
    }
    keep(field("step"), what, rate, unit, share, of)
}
/"status": *"(skipped|failed)"/ { last[field("step")] = field("status") ": " field("text") }
/"status": *"passed"/ { if (!(field("step") in passed)) count++; passed[field("step")] = 1; delete last[field("step")] }

# "met", "missed", or "" where nothing is aimed at; the aim itself in `aimed`.
function judge(i,  a, good) {
    aimed = ""
    if (row_what[i] == "memory: taken") {
        aimed = "90 to 105%" # kernels that are loaded later take some, too
        good = row_share[i] + 0 > 0.9 && row_share[i] + 0 < 1.05
        return count_aim(good)
    }
    for (a = 1; a <= aims; a++)
        if (aim_step[a] == row_step[i] && begins(row_what[i], aim_what[a])) break
    if (a > aims || aim_share[a] == "") return ""
    aim_used[a] = 1
    aimed = sprintf("%.0f%%", 100 * aim_share[a]) (aim_rate[a] ? ", " aim_rate[a] " " row_unit[i] : "")
    good = row_share[i] + 0 >= aim_share[a] && row_rate[i] + 0 >= aim_rate[a]
    return count_aim(good)
}

function count_aim(good) {
    if (good) { met++; return "met" }
    missed++
    return "missed"
}

function number(value) {
    if (value == "") return ""
    value += 0
    return value >= 1000 ? sprintf("%.0f", value) : value >= 10 ? sprintf("%.1f", value) : sprintf("%.2f", value)
}

function print_row(step, what, rate, unit, limit, share, of, aimed, verdict) {
    if (markdown) {
        printf "| %s | %s | %s %s | %s | %s | %s | %s |\n", step, what, rate, unit,
            limit == "" ? "" : limit " (" of ")", share, aimed, verdict
        return
    }
    printf "%-32s %-40s %10s %-9s %10s %7s  %-18s %-18s %s\n", step, what, rate, unit, limit, share, of, aimed, verdict
}

function print_rows(  i, limit, verdict) {
    for (i = 1; i <= rows; i++) {
        limit = row_share[i] != "" && row_share[i] + 0 > 0 ? number(row_rate[i] / row_share[i]) : ""
        verdict = judge(i)
        print_row(row_step[i], row_what[i], number(row_rate[i]), row_unit[i], limit,
                  row_share[i] == "" ? "" : sprintf("%.1f%%", 100 * row_share[i]), row_of_what[i], aimed, verdict)
    }
}

function print_ratios(  r, a, b, value) {
    for (r = 1; r <= ratios; r++) {
        a = find(ratio_step[r], ratio_what[r]); b = find(ratio_other_step[r], ratio_other_what[r])
        if (!a || !b || !(row_rate[b] > 0)) continue
        value = row_rate[a] / row_rate[b]
        ratio_used[r] = 1
        print_row("", ratio_name[r], number(value), "times", "", "", "", ratio_least[r] " times",
                  count_aim(value >= ratio_least[r]))
    }
}

function count_unmeasured(  a, r, left) {
    for (a = 1; a <= aims; a++) if (aim_share[a] != "" && !(a in aim_used)) left++
    for (r = 1; r <= ratios; r++) if (!(r in ratio_used)) left++
    return left + 0
}

END {
    if (machine != "") print (markdown ? date ", " : "machine: ") machine (markdown ? ":\n" : "")
    if (markdown) {
        print "| step | | rate | limit in the same run | share | aim | |"
        print "|---|---|---|---|---|---|---|"
    } else
        print_row("step", "what", "rate", "unit", "limit", "share", "of", "aim", "")
    print_rows()
    print_ratios()
    if (markdown) print ""
    if (clocks) printf "clock of the multiprocessors %d to %d MHz, at most %d W while measuring\n", least, most, power
    printf "%d steps passed; aims: %d met, %d missed, %d not measured\n", count, met, missed, count_unmeasured()
    for (step in last) printf "%s%s: %s\n", markdown ? "\n" : "", step, last[step]
}
