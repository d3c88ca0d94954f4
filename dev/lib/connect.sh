# shellcheck shell=bash
# Kafka Connect in one process (standalone) with Debezium's source connector: what walrelay is compared with. Not a part of
# dev/parts; it works against a state's parts while a script needs it. Needs STATE, and the parts 'source', 'kafka' and
# 'registry' running.

CONVERTER=io.apicurio.registry.utils.converter.AvroConverter

connect_require() {
  kafka_require
  require mvn maven
}

connect_prepare() {
  kafka_prepare && build_with_maven connect lib
}

# connect_run DATABASE PREFIX SETTINGS: starts Connect with one connector named PREFIX, which reads DATABASE into topics
# PREFIX.*; SETTINGS is a file of the connector's further properties, which come last and so count most. Returns when the
# connector streams.
connect_run() {
  local database=$1 prefix=$2 settings=$3 folder=$STATE/connect command
  rm -rf "$folder"
  mkdir -p "$folder/plugins"
  ln -s "$(cached connect)/lib" "$folder/plugins/debezium"
  claim_ports connect
  connect_worker >"$folder/worker.properties"
  { connect_source "$database" "$prefix" && cat "$settings"; } >"$folder/source.properties"
  kafka_java org.apache.kafka.connect.cli.ConnectStandalone "$folder/worker.properties" "$folder/source.properties"
  # The task's time zone must not show in what it writes.
  spawn connect env TZ=UTC "${command[@]}"
  await_answer connect 120 connect_streams "$database" "$prefix"
}

connect_worker() {
  cat <<CONF
bootstrap.servers=127.0.0.1:$(port_of kafka)
listeners=http://127.0.0.1:$(port_of connect)
plugin.path=$STATE/connect/plugins
plugin.discovery=hybrid_warn
offset.storage.file.filename=$STATE/connect/offsets
offset.flush.interval.ms=500
connector.client.config.override.policy=All
topic.creation.enable=true
$(connect_converter key)
$(connect_converter value)
CONF
}

# Confluent's wire format; connect.meta.data keeps names and parameters in the registered schemas.
connect_converter() {
  cat <<CONF
$1.converter=$CONVERTER
$1.converter.apicurio.registry.url=http://127.0.0.1:$(port_of registry)/apis/registry/v2
$1.converter.apicurio.registry.auto-register=true
$1.converter.apicurio.registry.find-latest=true
$1.converter.apicurio.registry.as-confluent=true
$1.converter.apicurio.registry.use-id=contentId
$1.converter.apicurio.registry.headers.enabled=false
$1.converter.connect.meta.data=true
CONF
}

connect_source() {
  cat <<CONF
name=$2
connector.class=io.debezium.connector.postgresql.PostgresConnector
tasks.max=1
database.hostname=127.0.0.1
database.port=$(port_of source)
database.user=postgres
database.password=unused
database.dbname=$1
topic.prefix=$2
plugin.name=pgoutput
slot.name=$2
publication.name=$2
publication.autocreate.mode=filtered
schema.include.list=public
poll.interval.ms=50
topic.creation.default.replication.factor=1
topic.creation.default.partitions=1
CONF
}

# connect_streams DATABASE SLOT: the snapshot is through when the slot's walsender streams.
connect_streams() {
  [[ $(connect_query "$1" "SELECT count(*) FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid
    WHERE slot_name = '$2' AND r.state = 'streaming'") == 1 ]]
}

# connect_has_written DATABASE SLOT LSN: Kafka has acknowledged what lies before the position, and Connect its offsets.
connect_has_written() {
  [[ $(connect_query "$1" "SELECT confirmed_flush_lsn > '$3' FROM pg_replication_slots WHERE slot_name = '$2'") == t ]]
}

connect_query() { postgres_psql source -d "$1" -Atc "$2" 2>/dev/null; }

connect_stop() {
  local pid
  pid=$(pid_of connect) || return 0
  signal_all TERM "$pid"
  await_end connect 20 || signal_all KILL "$pid"
  await_end connect 5
  rm -f "$(pid_file connect)"
}
