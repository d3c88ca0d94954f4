# shellcheck shell=bash
# Part kind: Apicurio Registry with its embedded database in a file, so that a restart keeps schemas and ids. Needs STATE.

REGISTRY_PATH=/apis/ccompat/v7

registry_require() {
  require_java
  [[ ! -d $(cached registry) ]] || return 0
  require javac default-jdk-headless
  require mvn maven
}

registry_prepare() { build_with_maven registry registry-1-runner.jar lib; }

registry_start() {
  local part=$1
  mkdir -p "$STATE/$part"
  # Every commit reaches the file before it is answered: a killed registry must not hand out an id a second time.
  # One request at a time: two that register at once lock each other out of its sequences until a timeout, again and again.
  spawn "$part" env HTTP_PORT="$(port_of "$part")" LOG_LEVEL=WARN QUARKUS_THREAD_POOL_MAX_THREADS=1 \
    REGISTRY_DATASOURCE_URL="jdbc:h2:file:$STATE/$part/registry;WRITE_DELAY=0" \
    java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dquarkus.http.host=127.0.0.1 \
    -jar "$(cached registry)/registry-1-runner.jar"
  await_answer "$part" 180 registry_answers "$part"
}

# "HTTP/1.x 200"
registry_answers() {
  local answer
  answer=$(ask 127.0.0.1 "$(port_of "$1")" 12 "GET $REGISTRY_PATH/subjects HTTP/1.0\r\nHost: localhost\r\n\r\n")
  [[ $answer == 485454502f312e3?20323030 ]]
}

registry_pids() { pid_of "$1" || true; }

registry_stop() {
  local pid
  pid=$(pid_of "$1") || return 0
  if [[ ${2:-} != fast ]]; then
    signal_all TERM "$pid"
    await_end "$1" 10 && return
  fi
  signal_all KILL "$pid"
  await_end "$1" 5
}

registry_remove() { rm -rf "${STATE:?}/$1"; }
