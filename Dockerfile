FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin walrelay

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home --uid 10001 walrelay
COPY --from=build /src/target/release/walrelay /usr/local/bin/walrelay
COPY --from=build /src/LICENSE /usr/share/doc/walrelay/LICENSE
USER 10001
ENTRYPOINT ["walrelay"]
CMD ["--help"]
