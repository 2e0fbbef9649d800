#!/usr/bin/env bash
# The tour with mosquitto_pub and mosquitto_sub, the clients of every shell script. Debian's have no WebSocket: TCP and TLS.
#
# usage: tour_mosquitto.sh URL VERSION NAME [CA]     URL: mqtt:// or mqtts://; VERSION: 4 (3.1.1) or 5
# Prints `ok STEP` for each step; the first that fails ends it with the reason and code 1.
set -euo pipefail

url=$1 version=$2 name=$3
hostport=${url#*://}
to=(-h "${hostport%:*}" -p "${hostport#*:}" -V "$([ "$version" = 5 ] && echo mqttv5 || echo mqttv311)")
case $url in mqtts://*) to+=(--cafile "$4") ;; esac
# Seconds that any one answer may take on a busy machine.
within=30
work=$(mktemp -d)
listeners=()
trap 'kill "${listeners[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
step=start

fail() { echo "FAILED $step: $*"; exit 1; }
hex() { printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n'; }

# publish ROLE ARGUMENT...: ends when the message is acknowledged.
publish() {
    local role=$1; shift
    timeout $within mosquitto_pub "${to[@]}" -i "$name-$role" "$@" >"$work/pub" 2>&1 || fail "mosquitto_pub: $(cat "$work/pub")"
}

# listen VARIABLE ROLE QOS ARGUMENT...: begins to listen, and goes on when the subscription is granted at this QoS. The
# variable gets the descriptor that the messages are read from; listener_pid is the process.
listen() {
    local -n descriptor=$1; local role=$2 qos=$3 line; shift 3
    exec {descriptor}< <(exec stdbuf -oL mosquitto_sub "${to[@]}" -i "$name-$role" -q "$qos" -W $within -d -F "${format:-got|%t|%q|%r|%x}" "$@" 2>&1)
    listener_pid=$!
    listeners+=("$listener_pid")
    while IFS= read -r -t $within -u "$descriptor" line; do
        case $line in
            "Subscribed "*)
                # One granted QoS for each filter.
                [[ $line =~ ^"Subscribed (mid: "[0-9]+"): $qos"(", $qos")*$ ]] || fail "granted instead of QoS $qos: $line"
                return ;;
        esac
    done
    fail "no SUBACK within $within s"
}

# next DESCRIPTOR: the next message, in `got`.
next() {
    while IFS= read -r -t $within -u "$1" got; do
        case $got in "got|"*) return ;; esac
    done
    fail "no message within $within s"
}

# expect DESCRIPTOR TOPIC QOS RETAIN PAYLOAD_IN_HEX
expect() {
    next "$1"
    [ "$got" = "got|$2|$3|$4|$5" ] || fail "$got instead of got|$2|$3|$4|$5"
}

# Ends a listener, without DISCONNECT if by KILL, and waits for its end.
end() { kill -"$1" "$2"; while kill -0 "$2" 2>/dev/null; do wait "$2" 2>/dev/null || break; done; }

connect() { publish first -q 0 -t "tour/$name/first" -m hello; }

round_trip() {
    local topic="tour/$name/qos/$1/é"
    awk 'BEGIN { for (i = 0; i < 768; i++) printf "\\x%02x", i % 256 }' >"$work/escaped"
    printf '%b' "$(cat "$work/escaped")" >"$work/bytes"
    [ "$(wc -c <"$work/bytes")" = 768 ] || fail "768 bytes"
    listen in "sub-$1" "$1" -t "$topic"; local pid=$listener_pid
    publish "pub-$1" -q "$1" -t "$topic" -f "$work/bytes"
    expect "$in" "$topic" "$1" 0 "$(od -An -v -tx1 "$work/bytes" | tr -d ' \n')"
    publish "pub-$1" -q "$1" -t "$topic" -n
    expect "$in" "$topic" "$1" 0 ""
    publish "pub-$1" -q "$1" -t "$topic" -m 21.5
    expect "$in" "$topic" "$1" 0 "$(hex 21.5)"
    end TERM $pid
}

retained() {
    local topic="tour/$name/retained" beside="tour/$name/mark"
    publish keeper -q 1 -r -t "$topic" -m first
    publish keeper -q 1 -r -t "$topic" -m last
    listen late late 1 -t "$topic"; local pid=$listener_pid
    expect "$late" "$topic" 1 1 "$(hex last)"
    publish keeper -q 1 -r -t "$topic" -m live
    expect "$late" "$topic" 1 0 "$(hex live)"
    publish keeper -q 1 -r -t "$topic" -n
    expect "$late" "$topic" 1 0 ""
    end TERM $pid
    listen later later 1 -t "$topic" -t "$beside"; pid=$listener_pid
    publish keeper -q 1 -t "$beside" -m nothing
    expect "$later" "$beside" 1 0 "$(hex nothing)"
    end TERM $pid
}

will() {
    local topic="tour/$name/will"
    listen watcher watcher 1 -t "$topic"; local pid=$listener_pid
    local last=(--will-topic "$topic" --will-qos 1 --will-payload)
    # -E ends with DISCONNECT after SUBACK.
    timeout $within mosquitto_sub "${to[@]}" -i "$name-orderly" -t "tour/$name/other" "${last[@]}" "must not be sent" -E
    if [ "$version" = 5 ]; then
        # On SIGTERM mosquitto_sub says goodbye with reason 0x04: disconnect with will message.
        listen leaver leaver 1 -t "tour/$name/other" "${last[@]}" "left with a will"
        end TERM $listener_pid
        expect "$watcher" "$topic" 1 0 "$(hex "left with a will")"
    fi
    listen victim victim 1 -t "tour/$name/other" "${last[@]}" gone
    end KILL $listener_pid
    expect "$watcher" "$topic" 1 0 "$(hex gone)"
    end TERM $pid
}

resume() {
    local topic="tour/$name/resume" qos number=0 keep=(-c) fresh=()
    [ "$version" = 5 ] && keep+=(-x 300)
    # They do not show whether CONNACK said that the session is present: what waited for them shows it. -E ends after SUBACK.
    timeout $within mosquitto_sub "${to[@]}" -i "$name-sleeper" "${keep[@]}" -q 2 -t "$topic" -E
    for qos in 1 1 1 2 2 2; do
        publish meanwhile -q $qos -t "$topic" -m "waits $((number++))"
    done
    timeout $within mosquitto_sub "${to[@]}" -i "$name-sleeper" "${keep[@]}" -q 2 -t "$topic" -C 6 -F '%q %p' >"$work/waited" ||
        fail "the messages of the session did not come: $(cat "$work/waited")"
    printf '%s\n' "1 waits 0" "1 waits 1" "1 waits 2" "2 waits 3" "2 waits 4" "2 waits 5" | diff - "$work/waited" >"$work/diff" ||
        fail "$(cat "$work/diff")"
    timeout $within mosquitto_sub "${to[@]}" -i "$name-sleeper" -q 2 -t "$topic" -E
}

shared() {
    local topic="tour/$name/shared" count=20 number part
    listen one member-1 1 -t "\$share/crew/$topic" -t "$topic/end"; local first=$listener_pid
    listen two member-2 1 -t "\$share/crew/$topic" -t "$topic/end"; local second=$listener_pid
    for ((number = 0; number < count; number++)); do
        publish sharer -q 1 -t "$topic" -m "$number"
    done
    publish sharer -q 1 -t "$topic/end" -m end
    for part in "$one" "$two"; do
        : >"$work/part-$part"
        next "$part"
        while [[ $got == "got|$topic|"* ]]; do
            echo "${got##*|}" >>"$work/part-$part"
            next "$part"
        done
        [ -s "$work/part-$part" ] || fail "one member had all the work"
    done
    local all; all=$(sort "$work"/part-* | uniq -c | awk '$1 == 1' | wc -l)
    [ "$all $(cat "$work"/part-* | wc -l)" = "$count $count" ] || fail "not each message once: $(sort "$work"/part-* | tr '\n' ' ')"
    end TERM "$first"
    end TERM "$second"
}

properties() {
    local topic="tour/$name/properties"
    format='got|%F|%C|%R|%D|%E|%P|%S|%x' listen in listener 1 -t "$topic" -D subscribe subscription-identifier 7
    local pid=$listener_pid
    publish speaker -q 1 -t "$topic" -m full -D publish payload-format-indicator 1 -D publish content-type text/plain \
        -D publish response-topic "$topic/answer" -D publish correlation-data corr -D publish message-expiry-interval 100 \
        -D publish user-property unit °C -D publish user-property unit K -D publish user-property place boiler
    next "$in"
    local expiry; expiry=$(cut -d'|' -f6 <<<"$got")
    [ "$expiry" -gt 0 ] && [ "$expiry" -le 100 ] || fail "message expiry: $got"
    local wanted="got|1|text/plain|$topic/answer|corr|$expiry|unit:°C unit:K place:boiler|7|$(hex full)"
    [ "$got" = "$wanted" ] || fail "$got instead of $wanted"
    end TERM $pid
}

topic_alias() {
    local topic="tour/$name/alias"
    listen in long 1 -t "$topic"; local pid=$listener_pid
    # The second of the two goes out with the alias alone.
    publish short -q 1 -t "$topic" -m twice --repeat 2 -D publish topic-alias 1
    expect "$in" "$topic" 1 0 "$(hex twice)"
    expect "$in" "$topic" 1 0 "$(hex twice)"
    end TERM $pid
}

run() { step=$1; shift; "$@"; echo "ok $step"; }
run connect connect
for qos in 0 1 2; do run qos$qos round_trip $qos; done
run retained retained
run will will
run resume resume
if [ "$version" = 5 ]; then
    run shared shared
    run properties properties
    run topic-alias topic_alias
fi
