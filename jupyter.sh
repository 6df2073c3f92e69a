#!/usr/bin/env bash
# Serve Jupyter Lab on the repository: predict_notebook.ipynb, notebooks/train.ipynb.
#
#   bash jupyter.sh                             (start_jupyter.sh does the same)
#   docker run --gpus '"device=0"' -p9777:9777 -v <videos>:/data -v <out>:/result liveness \
#     /bin/bash /code/start_jupyter.sh
#
# Then open http://<host>:9777/?token=zac2022. Whoever has the token can run anything as the user who
# serves, so choose another one where strangers can reach the port. Nothing is fetched from the network.
# Settings JUPYTER_TOKEN (default zac2022), JUPYTER_PORT (9777), JUPYTER_IP (0.0.0.0), PYTHON, and
#          those of predict.sh for its notebook: ENSEMBLE, DATA

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  ?*) misuse "unexpected argument $1" ;;
esac

pick_python
"$PY" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("jupyterlab") and u.find_spec("ipykernel")))' ||
  fail "$PY lacks jupyterlab; run: bash scripts/setup.sh --notebook"

# Jupyter keeps its state at home. A uid in a container may have no home, or one that it cannot write to.
if [[ ! -d ${HOME:-} || ! -w ${HOME:-} ]]; then
  HOME=$(mktemp -d)
  export HOME
fi
# Jupyter reads the token from the environment: every user of the machine can read a command line.
export JUPYTER_TOKEN=${JUPYTER_TOKEN:-zac2022}
export JUPYTER_PORT=${JUPYTER_PORT:-9777}
[[ $JUPYTER_PORT =~ ^[0-9]{1,5}$ ]] || misuse "JUPYTER_PORT=$JUPYTER_PORT: expected a number"
echo "Jupyter Lab on port $JUPYTER_PORT of ${JUPYTER_IP:-0.0.0.0}"

# If the port is taken, fail instead of serving on another one; fetch no news and no extensions.
cd "$CODE"
exec "$PY" -m jupyterlab --allow-root --no-browser --ip="${JUPYTER_IP:-0.0.0.0}" \
  --ServerApp.port_retries=0 --ServerApp.root_dir="$CODE" --ServerApp.allow_remote_access=True \
  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None \
  --LabApp.extension_manager=readonly --log-level=WARN
