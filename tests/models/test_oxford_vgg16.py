# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
import torch
from PIL import Image

from genaccel.models.oxford_vgg16 import OxfordVgg16, _onnx_tensors


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number, value):
    """A field of a protocol buffer: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor_message(name, array, data_type=1):
    dims = b"".join(field(1, side) for side in array.shape)
    return dims + field(2, data_type) + field(8, name.encode()) + field(9, array.tobytes())


def test_constants_of_an_onnx_model_are_found_among_other_fields():
    weights = np.arange(600, dtype=np.float32).reshape(2, 300)
    node = field(1, b"input") + varint(9 << 3 | 5) + bytes(4) + varint(10 << 3 | 1) + bytes(8)
    graph = (
        field(1, node)
        + field(5, tensor_message("weights", weights))
        + field(5, tensor_message("indices", np.array([1, 2]), data_type=7))
    )
    model = field(1, 8) + field(2, b"producer") + field(7, graph)
    ((name, found),) = _onnx_tensors(memoryview(model))
    assert name == "weights"
    np.testing.assert_array_equal(found.numpy(), weights)


def test_equal_images_have_no_distance_and_the_reference_no_gradient():
    torch.manual_seed(0)
    model = OxfordVgg16(stages=(1, 3))
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    references = torch.rand(2, 3, 16, 16, requires_grad=True)
    assert torch.equal(model(images, images), torch.zeros(2))
    distances = model(images, references)
    assert distances.shape == (2,)
    assert (distances > 0).all()
    distances.sum().backward()
    assert images.grad.abs().sum() > 0
    assert references.grad is None


def test_later_stages_are_not_made():
    assert len(OxfordVgg16(stages=(1, 2)).convs) == 4
    assert len(OxfordVgg16().convs) == 13
    for stages in ((), (0,), (6,)):
        with pytest.raises(ValueError, match="stages must be within 1 to 5"):
            OxfordVgg16(stages=stages)


def test_another_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no weight file"):
        OxfordVgg16.from_pretrained(tmp_path / "vgg.onnx")
    (tmp_path / "vgg.onnx").write_bytes(b"something")
    with pytest.raises(ValueError, match="is not the Tumor_classification_vgg16"):
        OxfordVgg16.from_pretrained(tmp_path / "vgg.onnx")


def test_published_weights_see_worse_pictures_as_farther():
    try:
        model = OxfordVgg16.from_pretrained()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    skimage_data = pytest.importorskip("skimage.data")
    picture = Image.fromarray(skimage_data.chelsea()[:128, 150:278])

    def planes(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255

    def distance(quality):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return float(model(planes(Image.open(file)), planes(picture)))

    distances = [distance(quality) for quality in (90, 50, 20, 5)]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 < distances[-1]
    assert not any(parameter.requires_grad for parameter in model.parameters())
