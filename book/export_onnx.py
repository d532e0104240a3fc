"""Export the digits networks for the reader's browser.

    python book/export_onnx.py [--runtime FOLDER]

Writes book/_static/play/digits-model.js. With `--runtime`, also packs onnxruntime-web from FOLDER,
the unpacked npm package (`npm pack onnxruntime-web`), into book/_static/play/ort.

A page that is opened from a folder may not fetch files, but it may load scripts. So everything that
the page needs is packed into scripts: gzip, then base64.
"""

import argparse
import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

import guided_diffusion_edu as gde

PLAY = Path(__file__).parent / "_static" / "play"
BATCH = 10
aten = torch.ops.aten


def networks(digits: gde.Pretrained) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The function that is exported.

    Takes (x_t, t, y); returns eps, the gradient of log p(y | x_t) in x_t, and log p(. | x_t).
    """

    def log_probs(x_t: Tensor, t: Tensor) -> Tensor:
        return digits.classifier(x_t, t).log_softmax(-1)  # (B, 10)

    def predict(x_t: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # not classifier_guidance, which checks the values of y: a graph has no values
        guidance = gde.log_prob_guidance(lambda x, t: log_probs(x, t).gather(1, y[:, None])[:, 0])
        return digits.model(x_t, t), guidance(x_t, t), log_probs(x_t, t)

    return predict


def convolution_backward(
    grad, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask
):
    """The gradient in x of a convolution: a transposed convolution.

    Its gradients in the weights are not needed.
    """
    if transposed or mask != [True, False, False] or set(stride) != {1}:
        raise NotImplementedError
    no_shift = [0] * len(stride)
    in_x = aten.convolution(grad, weight, None, stride, padding, dilation, True, no_shift, groups)
    return in_x, None, None


def avg_pool2d_backward(grad: Tensor, x: Tensor, kernel: list[int], *_: Any) -> Tensor:
    "The gradient of `halve`: a quarter of it to each of four pixels."
    if kernel != [2, 2]:
        raise NotImplementedError
    batch, channels, height, width = grad.shape
    four = grad[:, :, :, None, :, None].expand(batch, channels, height, 2, width, 2)
    return four.reshape(x.shape) / 4


def plain_graph(function: Callable[..., Any], *inputs: Tensor) -> torch.fx.GraphModule:
    """Trace `function` into a graph of plain operations, its automatic differentiation included.

    Those that run backwards and have no name in ONNX are written out.
    """
    table = dict(core_aten_decompositions())
    table[aten.convolution_backward.default] = convolution_backward
    table[aten.avg_pool2d_backward.default] = avg_pool2d_backward
    with sdpa_kernel(SDPBackend.MATH):
        return make_fx(function, decomposition_table=table)(*inputs)


def lighten(model: onnx.ModelProto) -> onnx.ModelProto:
    "Drop what the tracer noted for its own use, and keep each array once, in place."
    kept, same = {}, {}
    for array in model.graph.initializer:
        key = (array.data_type, tuple(array.dims), onnx.numpy_helper.to_array(array).tobytes())
        same[array.name] = kept.setdefault(key, array).name
    arrays = list(kept.values())
    del model.graph.initializer[:], model.graph.value_info[:], model.metadata_props[:]
    model.graph.initializer.extend(arrays)
    for node in model.graph.node:
        for field in ("metadata_props", "doc_string", "name"):
            node.ClearField(field)
        node.input[:] = [same.get(name, name) for name in node.input]
    return model


def export(digits: gde.Pretrained) -> bytes:
    "The `networks` of `digits` as the bytes of an ONNX file, for batches of `BATCH`."
    inputs = (
        torch.zeros(BATCH, 1, 8, 8),
        torch.zeros(BATCH, dtype=torch.long),
        torch.zeros(BATCH, dtype=torch.long),
    )
    names = dict(input_names=["x_t", "t", "y"], output_names=["eps", "gradient", "log_probs"])
    graph = plain_graph(networks(digits), *inputs).eval()
    program = torch.onnx.export(graph, inputs, dynamo=True, verbose=False, **names)
    return lighten(program.model_proto).SerializeToString()


def pack(name: str, contents: bytes, path: Path) -> None:
    "Write a script that keeps `contents` as `gde.packed[name]`."
    text = base64.b64encode(gzip.compress(contents, mtime=0)).decode()
    path.write_text(f'gde.packed[{json.dumps(name)}] = "{text}";\n')


def unpack(path: Path) -> bytes:
    "Read the contents of a script that `pack` wrote."
    return gzip.decompress(base64.b64decode(path.read_text().split('"')[3]))


def pack_runtime(package: Path) -> None:
    "Pack the smallest build of onnxruntime-web, plain WebAssembly, from its npm `package`."
    folder, dist = PLAY / "ort", package / "dist"
    loader = (dist / "ort.wasm.min.js").read_text()
    loader = loader.replace("//# sourceMappingURL=ort.wasm.min.js.map", "")
    (folder / "ort.wasm.min.js").write_text(loader)
    pack("loader", (dist / "ort-wasm-simd-threaded.mjs").read_bytes(), folder / "loader.js")
    pack("wasm", (dist / "ort-wasm-simd-threaded.wasm").read_bytes(), folder / "wasm.js")
    version = json.loads((package / "package.json").read_text())["version"]
    (folder / "README").write_text(
        f"onnxruntime-web {version} from npm, packed by book/export_onnx.py. "
        "MIT licence: see LICENSE.\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtime", type=Path, metavar="FOLDER")
    folder = parser.parse_args().runtime
    if folder:
        pack_runtime(folder)
    pack("digits", export(gde.load_pretrained("digits")), PLAY / "digits-model.js")
