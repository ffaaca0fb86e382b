# The builder has a Rust toolchain and a C compiler, which is all that is needed.
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies first, in a layer of their own that stays until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches \
    && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs benches/enqueue.rs benches/pace.rs > benches/scale.rs && touch src/lib.rs \
    && cargo build --release --locked && rm -r src
COPY config config
COPY migrations migrations
COPY src src
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home sweeper && mkdir /data && chown sweeper /data
COPY --from=build /build/target/release/sweeper /usr/local/bin/sweeper
USER 10001
ENV SWEEPER__DATABASE__PATH=/data/sweeper.db
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["sweeper"]
CMD ["run"]
