# shellcheck shell=bash
# Processes and ports of one state folder. A part is remembered by process id, start time and boot, so that a
# recycled process id is never taken for it. Needs STATE.

CACHE=${WALRELAY_DEV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/walrelay-dev}

say() { printf '%-8s  %s\n' "$1" "$2"; }

die() {
  printf '%s: %s\n' "$SELF" "$1" >&2
  shift
  for hint in "$@"; do printf '  %s\n' "$hint" >&2; done
  exit 1
}

now_ms() {
  local micros=${EPOCHREALTIME//[!0-9]/}
  echo $((micros / 1000))
}

seconds_since() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

log_file() { echo "$STATE/log/$1.log"; }
pid_file() { echo "$STATE/run/$1.pid"; }
boot_id() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown; }

# Start time of a process in clock ticks since boot; nothing when it is gone or a zombie.
start_time() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The command name, in parentheses, may hold spaces: count the fields behind it.
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} == [ZX] ]] || echo "${fields[19]}"
}

is_stopped_by_signal() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  [[ ${stat##*) } == T* ]]
}

# The process id of a part that runs; fails when it does not.
pid_of() {
  local pid start boot
  [[ -r $(pid_file "$1") ]] && read -r pid start boot <"$(pid_file "$1")" || return 1
  [[ -n $start && $boot == "$(boot_id)" && $(start_time "$pid") == "$start" ]] || return 1
  echo "$pid"
}

is_alive() { pid_of "$1" >/dev/null; }

# spawn PART COMMAND…: runs it detached from the terminal, output appended to the part's log.
spawn() {
  local part=$1 pid
  shift
  mkdir -p "$STATE/run" "$STATE/log"
  # Locks (8, 9) belong to this script, not to a process that outlives it.
  env -C / setsid "$@" </dev/null >>"$(log_file "$part")" 2>&1 8>&- 9>&- &
  pid=$!
  echo "$pid $(start_time "$pid") $(boot_id)" >"$(pid_file "$part")"
}

# signal_all SIGNAL PID…: processes that are already gone are no error.
signal_all() {
  local signal=$1
  shift
  (($# == 0)) || kill -s "$signal" "$@" 2>/dev/null || true
}

# await_end PART SECONDS
await_end() {
  local deadline=$(($(now_ms) + $2 * 1000))
  while is_alive "$1"; do
    (($(now_ms) < deadline)) || return 1
    sleep 0.05
  done
}

# await_answer PART SECONDS PROBE…: until PROBE succeeds; explains and fails when the part ends or the time is over.
await_answer() {
  local part=$1 seconds=$2 deadline
  deadline=$(($(now_ms) + $2 * 1000))
  shift 2
  until "$@"; do
    if ! is_alive "$part"; then
      explain_failure "$part" "the process ended before it answered"
      return 1
    elif (($(now_ms) > deadline)); then
      explain_failure "$part" "no answer within $seconds s"
      return 1
    fi
    sleep 0.1
  done
}

explain_failure() {
  local log
  log=$(log_file "$1")
  {
    printf '%s: %s; last lines of %s:\n' "$1" "$2" "$log"
    [[ ! -s $log ]] || tail -n 15 "$log" | sed 's/^/  | /'
    echo "  Look for the cause above. If its port ($(port_of "$1")) was taken by another program or its data is damaged:"
    echo "  '$SELF reset --state $STATE' drops the data and chooses new ports at the next 'up'."
  } >&2
}

port_of() { [[ ! -r $STATE/ports ]] || sed -n "s/^$1=//p" "$STATE/ports"; }

# Whether any process listens on a part's port (state 0A in the kernel's table).
is_port_taken() {
  grep -qs ":$(printf %04X "$(port_of "$1")") [0-9A-F]*:0000 0A " /proc/net/tcp /proc/net/tcp6
}

# claim_ports NAME…: gives each name that has none a free port and keeps it in the state, so that a part comes back
# where its clients look for it. Ports lie below the kernel's range for outgoing connections: while a part is down
# nothing else is given its port. CACHE/ports keeps other states of this user from choosing the same.
claim_ports() {
  local name port low busy
  mkdir -p "$CACHE/ports" "$STATE"
  low=$(cut -f1 /proc/sys/net/ipv4/ip_local_port_range 2>/dev/null || echo 32768)
  ((low > 15000)) || low=32768
  exec 8>"$CACHE/ports.lock"
  flock 8
  busy=" $(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$2 ~ /:/ {sub(/.*:/, "", $2); print $2}' | tr '\n' ' ')"
  for name in "$@"; do
    [[ -z $(port_of "$name") ]] || continue
    until
      port=$((10240 + RANDOM % (low - 10240)))
      [[ $busy != *" $(printf %04X "$port") "* ]] && ! is_claimed "$port"
    do :; done
    echo "$name=$port" >>"$STATE/ports"
    echo "$STATE" >"$CACHE/ports/$port"
  done
  exec 8>&-
}

is_claimed() {
  local owner
  owner=$(cat "$CACHE/ports/$1" 2>/dev/null) || return 1
  grep -qs "=$1\$" "$owner/ports"
}

# One answer from a TCP server as hexadecimal: ask HOST PORT BYTES_TO_READ REQUEST (printf escapes).
ask() {
  # shellcheck disable=SC2016 # expanded by the inner shell, which time-out can end
  timeout 2 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "$3" >&3 && head -c "$2" <&3 | od -An -v -tx1' "$@" 2>/dev/null |
    tr -d ' \n'
}

release_ports() {
  [[ -r $STATE/ports ]] || return 0
  local port
  while IFS='=' read -r _ port; do
    [[ $(cat "$CACHE/ports/$port" 2>/dev/null) != "$STATE" ]] || rm -f "$CACHE/ports/$port"
  done <"$STATE/ports"
  rm -f "$STATE/ports"
}
