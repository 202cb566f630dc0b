#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Submits the whole loop as a chain of jobs, each of which begins when the one before has ended well:
# ingest -> generate -> train -> vector -> merge. Prints their ids, the last one's in the end.
#
#   INPUTS=/data/texts BASE=/models/base WORK=/scratch/run slurm/pipeline.sh
#   MEMO_CONFIG=tonight.conf slurm/pipeline.sh
#
# Everything is written below WORK: corpus.h5, reflections, memory, memory.safetensors and merged, with
# the jobs' logs. VECTORS names further task vectors to merge with. STAGE_ARGS (INGEST_ARGS,
# GENERATE_ARGS, TRAIN_ARGS, VECTOR_ARGS, MERGE_ARGS) go to memo, SBATCH_STAGE_ARGS (for example
# SBATCH_TRAIN_ARGS="--nodes=2 --gpus-per-node=8 --time=12:00:00") to sbatch. A chain that broke is
# submitted again as it was: what is done is not done again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=slurm/common.sh
source "$here/common.sh"
memo_settings
memo_need INPUTS "files and directories of text"
memo_need BASE "the model directory to start from"
memo_need WORK "the directory to write into"
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd)

previous=''
submit() { # STAGE VARIABLE=VALUE...: after the stage before
    local stage=$1 words dependency=() variable="SBATCH_${1^^}_ARGS"
    shift
    read -r -a words <<<"${!variable:-}"
    [ -z "$previous" ] || dependency=(--dependency="afterok:$previous" --kill-on-invalid-dep=yes)
    previous=$(env "$@" MEMO_SLURM="$here" sbatch --parsable --export=ALL --output="$WORK/$stage-%j.log" \
        "${dependency[@]}" "${words[@]}" "$here/$stage.sbatch")
    previous=${previous%%;*} # a cluster's name may follow
    printf '%-9s job %s\n' "$stage" "$previous"
}

submit ingest INPUTS="$INPUTS" CORPUS="$WORK/corpus.h5"
submit generate CORPUS="$WORK/corpus.h5" OUT="$WORK/reflections"
submit train BASE="$BASE" DATA="$WORK/reflections" OUT="$WORK/memory"
submit vector BASE="$BASE" TUNED="$WORK/memory" OUT="$WORK/memory.safetensors"
submit merge BASE="$BASE" VECTORS="$WORK/memory.safetensors ${VECTORS:-}" OUT="$WORK/merged"
