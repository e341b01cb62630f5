"""Triton without a container, as a peer: the server that the nvidia-pytriton package bundles.

It gets what it needs to do well: both cores, the same ONNX Runtime and session as ours, no
dynamic batcher where only overhead counts, and its own deadline policy where deadlines count.
"""

import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.environments import ENVIRONMENTS, RUNTIME, install
from bench.models import OUT, Model
from bench.servers import Server, remove_all

PYTRITON = "0.7.0"
SERVER_VERSION = "2.51"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = ENVIRONMENTS / f"triton/lib/python{PYTHON}/site-packages"

# A client's `timeout` may only shorten the queue's own; without a default it is ignored.
DEADLINE_POLICY = """
dynamic_batching {
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 20000
    allow_timeout_override: true
  }
}
"""


class Triton(Server):
    """Triton's python backend, one instance per model."""

    def __init__(
        self, models: Sequence[Model], *, deadlines: bool = False, cores: str = "0-1"
    ) -> None:
        super().__init__(cores)
        install("triton", f"nvidia-pytriton=={PYTRITON}", RUNTIME)
        self.name = f"triton-{'policy' if deadlines else 'plain'}-{cores}"
        self._folder = OUT / f"triton-{self._port}"
        self._shared_memory = f"tidsram_bench_triton_{self._port}_"
        self._collect_backend()
        for model in models:
            self._add(model, DEADLINE_POLICY if deadlines else "")

    def command(self) -> Sequence[str]:
        """Return the bundled server with HTTP only."""
        return [
            str(SITE / "pytriton/tritonserver/bin/tritonserver"),
            f"--model-repository={self._folder / 'models'}",
            f"--backend-directory={self._folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            *("--http-address=127.0.0.1", f"--http-port={self._port}"),
            *("--allow-grpc=false", "--allow-metrics=false"),
        ]

    def environment(self) -> Mapping[str, str]:
        """Return the library path; without the bundle's own the start hangs silently."""
        libraries = (SITE / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
        return {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}

    def clean_up(self) -> None:
        """Remove the shared memory that a killed server leaves."""
        remove_all(Path("/dev/shm"), f"{self._shared_memory}*")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _collect_backend(self) -> None:
        bundle = SITE / "pytriton/tritonserver"
        backend = self._folder / "backends/python"
        shutil.copytree(bundle / "backends/python", backend)
        stub = "triton_python_backend_stub"
        shutil.copy2(bundle / f"python_backend_stubs/{PYTHON}/{stub}", backend / stub)

    def _add(self, model: Model, policy: str) -> None:
        version_folder = self._folder / "models" / model.name / "1"
        version_folder.mkdir(parents=True)
        shutil.copyfile(model.path, version_folder / "model.onnx")
        # The stub ignores PYTHONPATH, so the model names its packages itself.
        source = (Path(__file__).parent / "triton_model.py").read_text()
        head = f"import sys\nsys.path.insert(0, {str(SITE)!r})\n"
        (version_folder / "model.py").write_text(head + source)
        tensors = (
            ("input", model.input_name, model.question.shape),
            ("output", model.output_name, model.output_shape),
        )
        lines = [f'name: "{model.name}"', 'backend: "python"', "max_batch_size: 0"]
        lines += [
            f'{kind} [{{ name: "{name}" data_type: TYPE_FP32 dims: {list(shape)} }}]'
            for kind, name, shape in tensors
        ]
        lines.append("instance_group [{ count: 1 kind: KIND_CPU }]")
        (version_folder.parent / "config.pbtxt").write_text("\n".join(lines) + policy)
