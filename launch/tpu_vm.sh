#!/usr/bin/env bash
# Rents a Cloud TPU VM or a slice of many hosts, installs the committed state of this project on all and trains there.
# Taken away, it rents another and runs the same command, which resumes if --workdir outlives it and all hosts see it.
#   launch/tpu_vm.sh [--dry-run] --name=NAME --zone=ZONE [--type=TYPE] [--version=IMAGE] [flags of gssl_jax.main]
# e.g. launch/tpu_vm.sh --name=ssl --zone=us-west4-a --type=v5litepod-64 --config=my_recipe.py --workdir=/mnt/a/run
# --dry-run prints the commands and stops. TPU_NAME, TPU_ZONE, TPU_TYPE and TPU_VERSION stand in for flags left out.
# TPU_FLAGS (--spot) goes to the creation, e.g. with --data-disk; TPU_MOUNT is a command run there before training.
# The machine costs money until you delete it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${TPU_NAME:-} zone=${TPU_ZONE:-} type=${TPU_TYPE:-v5litepod-8} version=${TPU_VERSION:-v2-alpha-tpuv5-lite}
dry=false up=false vm=(gcloud compute tpus tpu-vm)
train="${TPU_MOUNT:+$TPU_MOUNT && }cd gssl_jax && .venv/bin/python -m gssl_jax.main --distributed=auto"
for flag in "$@"; do
    case $flag in
        --dry-run) dry=true ;;
        --name=*) name=${flag#*=} ;; --zone=*) zone=${flag#*=} ;;
        --type=*) type=${flag#*=} ;; --version=*) version=${flag#*=} ;;
        *) train+=$(printf ' %q' "$flag") ;;
    esac
done
if [ -z "$name" ] || [ -z "$zone" ]; then sed -n '4s/^# */usage: /p' launch/tpu_vm.sh >&2; exit 2; fi
create=("${vm[@]}" create "$name" --zone="$zone" --accelerator-type="$type" --version="$version")
for flag in ${TPU_FLAGS---spot}; do create+=("$flag"); done
install="tar -xzf gssl_jax.tar.gz && python3 -m pip install --user uv && cd gssl_jax && PATH=~/.local/bin:\$PATH && \
uv venv --python=3.12 --allow-existing .venv && uv pip install --python=.venv/bin/python --editable . \"jax[tpu]\""
quote() { case $1 in *\'*) printf %q "$1" ;; *[!A-Za-z0-9_./:=,-]*) printf "'%s'" "$1" ;; *) printf %s "$1" ;; esac; }
run() { printf +; for word in "$@"; do printf ' '; quote "$word"; done; echo; if [ "$dry" = false ]; then "$@"; fi; }
state() { [ "$dry" = true ] || "${vm[@]}" describe "$name" --zone="$zone" --format='value(state)' 2>/dev/null || true; }
remote() { run "${vm[@]}" ssh "$name" --zone="$zone" --worker=all --command="$1"; }
gone() { run "${vm[@]}" delete "$name" --zone="$zone" --quiet; }
rent() { case $1 in PREEMPTED | TERMINATED) gone ;; ?*) echo "$name is $1" >&2; false ;; esac && run "${create[@]}"; }
send() { run "${vm[@]}" scp /tmp/gssl_jax.tar.gz "$name:" --zone="$zone" --worker=all && remote "$install"; }
run git archive --prefix=gssl_jax/ --output=/tmp/gssl_jax.tar.gz HEAD
if [ "$dry" = false ] && ! command -v gcloud >/dev/null; then echo "error: there is no gcloud here" >&2; exit 2; fi
until { now=$(state); [ "$now" = READY ] || rent "$now"; } && up=true && send && remote "$train"; do
    if [ "$up" = false ]; then echo "error: no machine was made; see gcloud's words above" >&2; exit 1; fi
    sleep 60 # the reported state lags behind the machine's
    if [ "$(state)" = READY ]; then echo "error: $name is up, so the command failed: mend it" >&2; exit 1; fi
done
