# shellcheck shell=bash
# Part kind: an Apache Kafka node, broker and KRaft controller in one process; one alone, or several that are a cluster.
# Needs STATE.

# Sets KAFKA_NODES, and adds nodes beyond the first to PARTS and PORTS: as many as the state was made with.
kafka_choose_nodes() {
  local nodes=${PARTS_KAFKA_NODES:-1} number
  [[ ! -r $STATE/kafka.cluster ]] || read -r _ nodes <"$STATE/kafka.cluster"
  KAFKA_NODES=(kafka)
  for ((number = 2; number <= nodes; number++)); do
    KAFKA_NODES+=("kafka$number")
    PARTS+=("kafka$number")
    PORTS+=("kafka$number" "kafka$number.sasl" "kafka$number.controller")
  done
}

# A cluster id, a UUID of 16 bytes in URL-safe base64 without padding, and the number of nodes.
kafka_name_cluster() {
  [[ ! -e $STATE/kafka.cluster ]] || return 0
  echo "$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=') ${#KAFKA_NODES[@]}" >"$STATE/kafka.cluster"
}

kafka_addresses() {
  local addresses
  addresses=$(for node in "${KAFKA_NODES[@]}"; do address_of "$node"; done)
  echo "${addresses//$'\n'/,}"
}

# kafka_node_id PART
kafka_node_id() {
  local number=${1#kafka}
  echo "${number:-1}"
}

kafka_require() {
  require_java
  [[ -d $(cached kafka) ]] || require mvn maven
}

require_java() {
  local version
  require java default-jdk-headless
  command -v java >/dev/null || return 0
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  ((${version:-0} >= 17)) || die "Kafka needs Java 17 or newer, found ${version:-none}" \
    "Install it (Debian's name: openjdk-17-jdk-headless) and put it first on the PATH."
}

kafka_prepare() { build_with_maven kafka lib; }

# kafka_java CLASS ARGUMENT…: PARTS_KAFKA_HEAP and PARTS_KAFKA_JAVA change the memory and the flags of the JVM.
kafka_java() {
  local flags
  read -ra flags <<<"${PARTS_KAFKA_JAVA:--XX:TieredStopAtLevel=1 -XX:+UseSerialGC}"
  command=(java "-Xmx${PARTS_KAFKA_HEAP:-256m}" "${flags[@]}" "-Dlog4j2.configurationFile=$DEV/kafka/log4j2.properties"
    -cp "$(cached kafka)/lib/*" "$@")
}

kafka_start() {
  local part=$1 folder=$STATE/$1 command
  if [[ ! -d $folder/data ]]; then
    kafka_format "$part" || return 1
  fi
  kafka_configure "$part" >"$folder/server.properties"
  kafka_java kafka.Kafka "$folder/server.properties"
  spawn "$part" "${command[@]}"
  await_answer "$part" 180 kafka_answers "$part"
}

kafka_format() {
  local part=$1 folder=$STATE/$1 command id
  mkdir -p "$folder" "$STATE/log"
  rm -rf "$folder/data.new"
  kafka_configure "$part" data.new >"$folder/format.properties"
  read -r id _ <"$STATE/kafka.cluster"
  kafka_java kafka.tools.StorageTool format -t "$id" -c "$folder/format.properties"
  if ! "${command[@]}" >>"$(log_file "$part")" 2>&1; then
    explain_failure "$part" "its storage could not be formatted"
    return 1
  fi
  mv "$folder/data.new" "$folder/data"
}

# kafka_configure PART [DATA]: a killed broker is let in again only when its old session has timed out, so that is short.
kafka_configure() {
  local port sasl controller login=org.apache.kafka.common.security.plain.PlainLoginModule
  local node voters='' replicas=${#KAFKA_NODES[@]} in_sync=1
  port=$(port_of "$1") sasl=$(port_of "$1.sasl") controller=$(port_of "$1.controller")
  for node in "${KAFKA_NODES[@]}"; do
    voters+="${voters:+,}$(kafka_node_id "$node")@127.0.0.1:$(port_of "$node.controller")"
  done
  ((replicas < 3)) || in_sync=2
  cat <<CONF
process.roles=broker,controller
node.id=$(kafka_node_id "$1")
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=$login required user_walrelay="$PARTS_PASSWORD";
controller.listener.names=CONTROLLER
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.dirs=$STATE/$1/${2:-data}
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=5
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=10000
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=1
CONF
}

# Ready when a metadata request (version 4, no topics) is answered with at least one broker that is not fenced: length,
# correlation id, throttle time and the number of brokers, four bytes each.
kafka_answers() {
  local answer
  answer=$(ask 127.0.0.1 "$(port_of "$1")" 16 '\0\0\0\17\0\3\0\4\0\0\0\1\377\377\0\0\0\0\0')
  [[ ${#answer} == 32 && ${answer:24:8} != 00000000 ]]
}

kafka_pids() { pid_of "$1" || true; }

kafka_stop() {
  local pid
  pid=$(pid_of "$1") || return 0
  if [[ ${2:-} != fast ]]; then
    signal_all TERM "$pid"
    await_end "$1" 15 && return
  fi
  signal_all KILL "$pid"
  await_end "$1" 5
}

kafka_remove() { rm -rf "${STATE:?}/$1"; }
