#!/usr/bin/env bash
# Trains on the GPU nodes of a Kubernetes cluster that has JobSet (jobset.x-k8s.io): a process for each node, all of
# them one run. When a node is taken away all pods start again and go on from the last checkpoint in the claim.
#   launch/kubernetes.sh [--dry-run] --name=NAME --image=IMAGE --claim=CLAIM [--nodes=N] [--gpus=G] [flags of main]
#   launch/kubernetes.sh --name=ssl --image=registry/gssl_jax:cuda --claim=disk --nodes=4 \
#     --config=configs/maskcluster_vit.py:imagenet --config.data.streams.train.path=/shared/in1k --workdir=/shared/run
# --dry-run  print the JobSet and stop; N nodes (1) of G GPUs (8); CLAIM, a ReadWriteMany volume, becomes /shared
# RESTARTS   how often all pods may start again (100), but not after a refusal; KUBECTL_FLAGS e.g. --namespace=lab
set -euo pipefail
name='' image='' claim='' nodes=1 gpus=8 dry=false args=''
for flag in "$@"; do
    case $flag in
        --dry-run) dry=true ;;
        --name=*) name=${flag#*=} ;; --image=*) image=${flag#*=} ;; --claim=*) claim=${flag#*=} ;;
        --nodes=*) nodes=${flag#*=} ;; --gpus=*) gpus=${flag#*=} ;;
        *) args+=", '${flag//\'/\'\'}'" ;;
    esac
done
if [ -z "$name" ] || [ -z "$image" ] || [ -z "$claim" ]; then sed -n '4s/^# */usage: /p' "$0" >&2; exit 2; fi
jobset="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: $name}
spec:
  failurePolicy: {maxRestarts: ${RESTARTS:-100}, rules: [{action: FailJobSet, onJobFailureReasons: [PodFailurePolicy]}]}
  replicatedJobs: [{name: train, template: {spec: {
    parallelism: $nodes, completions: $nodes, completionMode: Indexed, backoffLimit: 0,
    podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {containerName: train, operator: In, values: [2]}}]},
    template: {spec: {restartPolicy: Never, terminationGracePeriodSeconds: 180,
      volumes: [{name: disk, persistentVolumeClaim: {claimName: $claim}}, {name: memory, emptyDir: {medium: Memory}}],
      containers: [{name: train, image: '$image', resources: {limits: {nvidia.com/gpu: $gpus}},
        volumeMounts: [{name: disk, mountPath: /shared}, {name: memory, mountPath: /dev/shm}],
        command: [python, -m, gssl_jax.main, '--distributed=$name-train-0-0.$name:8476', --processes=$nodes,
          '--process=\$(JOB_COMPLETION_INDEX)'$args]}]}}}}}]"
# shellcheck disable=SC2206 # flags are parted at spaces
command=(kubectl ${KUBECTL_FLAGS:-} apply -f -)
printf '%s\n+' "$jobset"
printf ' %q' "${command[@]}"
printf '\n'
if [ "$dry" = false ]; then printf '%s\n' "$jobset" | "${command[@]}"; fi
