# Both programs of this repository, built once.
#
#   docker build --target sse-proxy -t sse-proxy:0.1.0 .
#   docker build --target sse-loadgen -t sse-loadgen:0.1.0 .

FROM rust:1.95.0-bookworm AS build
# zlib-ng, which Pingora compresses with, is configured by cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
# Names for backtraces stay; line tables, four fifths of the size, do not.
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=debuginfo
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY proxy proxy
COPY loadgen loadgen
# The page that the built-in backend serves.
COPY examples/clients examples/clients
# The caches outlive this step, so that a changed line does not compile Pingora again.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --workspace --bins \
    && install -D -t /out target/release/sse-proxy target/release/sse-loadgen

# The instrument runs scripts, so it gets a system.
FROM debian:12.13-slim AS sse-loadgen
LABEL org.opencontainers.image.title="sse-loadgen" \
      org.opencontainers.image.description="Load generator and measuring instrument for Server-Sent Events" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/sse-loadgen /usr/local/bin/
COPY --chmod=755 docker/healthcheck docker/compare-services /usr/local/bin/
# A user that owns nothing, by number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 9000
ENTRYPOINT ["sse-loadgen"]
CMD ["--help"]

# The proxy needs no system: itself, the libraries that it and the health check's bash are linked with, and the authorities
# that the certificates of https:// upstreams are verified against.
FROM debian:12.13-slim AS root
COPY --from=build /out/sse-proxy /root-fs/usr/local/bin/
COPY --from=build /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/
COPY --chmod=755 docker/healthcheck /root-fs/usr/local/bin/
RUN cp --parents /bin/bash /root-fs \
    && ldd /root-fs/usr/local/bin/sse-proxy /bin/bash | awk '$2 == "=>" { print $3 } $1 ~ /ld-linux/ { print $1 }' \
    | sort -u | xargs cp --parents --dereference --target-directory=/root-fs

FROM scratch AS sse-proxy
LABEL org.opencontainers.image.title="sse-proxy" \
      org.opencontainers.image.description="Reverse proxy for Server-Sent Events" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=root /root-fs /
ENV PATH=/usr/local/bin:/bin
USER 65532:65532
EXPOSE 8080 9090
# Asks the admin listener, which the configuration has to open on port 9090.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["healthcheck", "127.0.0.1", "9090", "/healthz"]
ENTRYPOINT ["sse-proxy"]
CMD ["--config", "/etc/sse-proxy/sse-proxy.yaml"]
