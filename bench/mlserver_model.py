"""The peer's side: an ONNX Runtime session, set as ours is, as a custom MLServer runtime."""

from pathlib import Path

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
)

from bench.models import session


class Model(MLModel):  # type: ignore[misc]
    """What MLServer calls."""

    async def load(self) -> bool:
        """Open the session that the settings name."""
        self._session = session(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request by itself."""
        (tensor,) = payload.inputs
        row = NumpyCodec.decode_input(tensor)
        (answer,) = self._session.run(None, {tensor.name: row})
        output = NumpyCodec.encode_output("y", answer)
        return InferenceResponse(model_name=self.name, outputs=[output])
