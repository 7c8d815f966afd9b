# Both programs of this repository, built once.
#
#   docker build --target sse-proxy -t sse-proxy:0.1.0 .
#   docker build --target sse-loadgen -t sse-loadgen:0.1.0 .
#
# Versions are pinned, and times in the images are those of SOURCE_DATE_EPOCH (2026-01-01 by default).
ARG SOURCE_DATE_EPOCH=1767225600

FROM rust:1.95.0-bookworm AS build
# zlib-ng, which Pingora compresses with, is configured by cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
# Names for backtraces stay; line tables, four fifths of the size, do not.
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=debuginfo
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY proxy proxy
COPY loadgen loadgen
# The page that the built-in backend serves.
COPY examples/clients examples/clients
# The caches outlive this step, so that a changed line does not compile Pingora again.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --workspace --bins \
    && install -D -t /out target/release/sse-proxy target/release/sse-loadgen
ARG SOURCE_DATE_EPOCH
COPY --chmod=755 docker/healthcheck docker/measure /out/
RUN touch --date="@$SOURCE_DATE_EPOCH" /out/*

# Neither needs a system: only itself, the libraries it is linked with, and bash for the health check.
FROM debian:12.13-slim AS root
ARG SOURCE_DATE_EPOCH
COPY --chmod=755 docker/take /usr/local/bin/

# The instrument also runs the script `measure`, which moves files, becomes the user that owns the report folder, and writes
# to /tmp what it starts.
FROM root AS loadgen-root
COPY --from=build /out/sse-loadgen /out/healthcheck /out/measure /root-fs/usr/local/bin/
RUN install -d -m 1777 /root-fs/tmp && take /root-fs /bin/bash /bin/mv /usr/bin/stat /usr/bin/setpriv

FROM scratch AS sse-loadgen
LABEL org.opencontainers.image.title="sse-loadgen" \
      org.opencontainers.image.description="Load generator and measuring instrument for Server-Sent Events" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=loadgen-root /root-fs /
ENV PATH=/usr/local/bin:/usr/bin:/bin
# A user that owns nothing, by number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 9000
ENTRYPOINT ["sse-loadgen"]
CMD ["--help"]

# The proxy also needs the authorities that the certificates of https:// upstreams are verified against.
FROM root AS proxy-root
COPY --from=build /out/sse-proxy /out/healthcheck /root-fs/usr/local/bin/
COPY --from=build /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/
RUN take /root-fs /bin/bash

FROM scratch AS sse-proxy
LABEL org.opencontainers.image.title="sse-proxy" \
      org.opencontainers.image.description="Reverse proxy for Server-Sent Events" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=proxy-root /root-fs /
ENV PATH=/usr/local/bin:/bin
USER 65532:65532
EXPOSE 8080 9090
# Asks the admin listener, which the configuration has to open on port 9090.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["healthcheck", "127.0.0.1", "9090", "/healthz"]
ENTRYPOINT ["sse-proxy"]
CMD ["--config", "/etc/sse-proxy/sse-proxy.yaml"]
