#!/bin/bash
# Runs a command on a machine that the cloud may take away, and sends it SIGTERM when the cloud says that it will.
#
#     examples/spot/watch.sh aws budgeted train cifar10 --budget 24h --resume auto
#     examples/spot/watch.sh gcp budgeted train cifar10 --budget 24h --resume auto
#
# The command takes the place of this shell, so signals to it and its exit code are its own.

metadata=${METADATA_URL:-http://169.254.169.254}
case $1 in
aws | gcp) cloud=$1 && shift ;;
*) echo "usage: watch.sh aws|gcp COMMAND..." >&2 && exit 2 ;;
esac

ask() {
    curl --silent --fail --noproxy '*' --max-time 2 "$@"
}

aws() { # two minutes before the end there is an answer, and none until then
    token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || return 2
    ask -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action" || return 1
}

gcp() { # thirty seconds before the end
    preempted=$(ask -H 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted") || return 2
    [ "$preempted" = TRUE ]
}

has_ended() { # where its process is not the parent of this one any more
    read -r _ _ _ parent _ </proc/self/stat
    [ "$parent" != $$ ]
}

watch() {
    silent=no
    until has_ended; do
        "$cloud"
        case $? in
        0)
            echo "watch.sh: $cloud takes this machine away; SIGTERM to process $$" >&2
            kill -TERM $$
            return
            ;;
        2)
            [ $silent = yes ] || echo "watch.sh: no answer from $metadata, so no warning can be heard" >&2
            silent=yes
            ;;
        1) silent=no ;;
        esac
        sleep 2
    done
}

watch &
exec "$@"
