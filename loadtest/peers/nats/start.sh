#!/bin/sh
# nats-server with a WebSocket listener, in the foreground: start.sh PORT SCRATCH
set -eu
port=$1
scratch=$2
ulimit -n "$(ulimit -Hn)"

cat > "$scratch/nats.conf" <<END
# Its own clients' port: any free one, nobody comes there.
listen: "127.0.0.1:-1"
websocket {
    listen: "127.0.0.1:$port"
    no_tls: true
    compression: false
}
max_connections: 1000000
max_payload: 67108864
max_pending: 4294967296
write_deadline: "1h"
ping_interval: "25s"
# A PING may lie in one frame with messages, where a load generator does not look for it.
ping_max: 100000
logfile: "/dev/null"
END
exec nats-server -c "$scratch/nats.conf"
