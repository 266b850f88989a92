#!/bin/sh
# nginx with nchan as a broadcast server, in the foreground: start.sh PORT SCRATCH
#
#   /sub/TOPIC   subscribes
#   /pub/TOPIC   publishes what it sends, text as text and binary as binary
#
# Everything nginx writes is below SCRATCH.
set -eu
port=$1
scratch=$2

# Where the distribution keeps nginx's dynamic modules.
modules=$(nginx -V 2>&1 | sed -n 's/.*--modules-path=\([^ ]*\).*/\1/p')
# As many connections as the limit on open files holds; nginx reserves memory for all of them at once.
files=$(ulimit -Hn)
case $files in unlimited) files=65536 ;; esac
[ "$files" -le 65536 ] || files=65536
ulimit -n "$files"

# A worker that is started by root gives up its rights unless it is told who to be.
user=
[ "$(id -u)" != 0 ] || user='user root;'

cat > "$scratch/nginx.conf" <<END
$user
load_module $modules/ngx_nchan_module.so;
daemon off;
worker_processes 1;
pid $scratch/nginx.pid;
error_log stderr crit;
events {
    worker_connections $files;
}
http {
    access_log off;
    client_body_temp_path $scratch/client_body;
    proxy_temp_path $scratch/proxy;
    fastcgi_temp_path $scratch/fastcgi;
    uwsgi_temp_path $scratch/uwsgi;
    scgi_temp_path $scratch/scgi;
    client_max_body_size 64m;
    client_body_buffer_size 64m;
    nchan_shared_memory_size 1024m;
    server {
        listen 127.0.0.1:$port backlog=4096;
        location ~ ^/sub/(.+)\$ {
            nchan_subscriber websocket;
            nchan_channel_id \$1;
            nchan_subscriber_first_message newest;
            nchan_websocket_ping_interval 25s;
        }
        # A publisher here is also the subscriber of a topic that nobody publishes to: nchan answers a mere publisher's
        # every message with the state of the channel.
        location ~ ^/pub/(.+)\$ {
            nchan_pubsub websocket;
            nchan_publisher_channel_id \$1;
            nchan_subscriber_channel_id nobody;
            nchan_message_buffer_length 65536;
            nchan_message_timeout 60s;
        }
    }
}
END
exec nginx -p "$scratch" -c "$scratch/nginx.conf" -e stderr
