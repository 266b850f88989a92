#!/bin/sh
# Centrifugo 6, in the foreground: start.sh PORT SCRATCH. Anybody may subscribe and publish.
set -eu
port=$1
scratch=$2
ulimit -n "$(ulimit -Hn)"

cat > "$scratch/config.json" <<END
{
  "http_server": { "address": "127.0.0.1", "port": $port },
  "log": { "level": "error" },
  "client": {
    "insecure": true,
    "ping_interval": "25s",
    "pong_timeout": "10s",
    "queue_max_size": 1073741824
  },
  "websocket": {
    "compression": false,
    "message_size_limit": 67108864,
    "write_timeout": "1h"
  },
  "channel": {
    "without_namespace": {
      "allow_subscribe_for_client": true,
      "allow_subscribe_for_anonymous": true,
      "allow_publish_for_client": true,
      "allow_publish_for_anonymous": true
    }
  },
  "usage_stats": { "disabled": true },
  "shutdown": { "timeout": "1s" }
}
END
exec centrifugo --config "$scratch/config.json"
