# The builder has a Rust toolchain and a C compiler, which is all that is needed.
FROM rust:1.95.0-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies first, in a layer of their own that stays until Cargo.lock changes. Cargo wants every target's file.
COPY Cargo.toml Cargo.lock ./
RUN for file in src/main.rs $(sed -n 's/^path = "\(.*\)"$/\1/p' Cargo.toml); do \
        mkdir -p "$(dirname "$file")" && echo 'fn main() {}' > "$file"; \
    done && touch src/lib.rs && cargo build --release --locked && rm -r src
COPY config config
COPY migrations migrations
COPY src src
COPY build.rs ./
# The build has no git. To have the commit in `sweeper --version`: --build-arg SWEEPER_BUILD_COMMIT=$(git rev-parse --short HEAD)
ARG SWEEPER_BUILD_COMMIT=
RUN touch src/lib.rs src/main.rs && cargo build --release --locked && mkdir /data

# A C library and the certificates of authorities; no shell, no package manager. The same Debian as the builder's.
FROM gcr.io/distroless/cc-debian13:nonroot
COPY --from=build /build/target/release/sweeper /usr/local/bin/sweeper
COPY --from=build --chown=10001:10001 /data /data
USER 10001:10001
# Health is asked about from inside; to let others scrape /metrics, publish the port and listen on 0.0.0.0:9464.
ENV SWEEPER__HTTP__LISTEN=127.0.0.1:9464
VOLUME /data
# The queue is sweeper.db here, unless database.path or database.url names another one.
WORKDIR /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["/usr/local/bin/sweeper", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/sweeper"]
CMD ["run"]
