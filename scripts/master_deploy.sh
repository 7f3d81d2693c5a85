#!/usr/bin/env bash
# Step 2 on a Linux master: deploy and train. The work is done by `loraloom cluster`; see docs/cluster.md.
#
#   scripts/master_deploy.sh --config run.yaml (--workers A,B | --workers-file workers.json) [options of cluster launch]
set -euo pipefail
if command -v uv >/dev/null && [ -f pyproject.toml ]; then
    exec uv run --extra cluster loraloom cluster launch "$@"
fi
exec loraloom cluster launch "$@"
