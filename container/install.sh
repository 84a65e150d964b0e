#!/bin/sh
# Installs the program of the working folder into venv/ there. Dockerfile and apptainer.def run this.
#
#   DEVICE       cpu (the default), or cuda
#   TORCH_INDEX  where PyTorch comes from, besides PyPI: of cpu PyTorch's own index where it is empty. "none" for PyPI only.
set -eu
case "${DEVICE:-cpu}" in
    cpu) index="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" ;;
    cuda) index="${TORCH_INDEX:-none}" ;; # PyPI's PyTorch brings CUDA along
    *) echo "DEVICE is ${DEVICE}: neither cpu nor cuda" >&2; exit 2 ;;
esac
if [ "$index" = none ]; then index=; fi
python3 -m venv venv
install() { venv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --constraint constraints.txt "$@"; }
install ${index:+--extra-index-url "$index"} torch
install '.[export]'
