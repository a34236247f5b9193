# SPDX-License-Identifier: Apache-2.0
"""``output_type="genaccel"`` on small pipelines of the real classes."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from diffusers import DiffusionPipeline, DiTPipeline
from PIL import Image

import genaccel.pipelines.dit_compression
from genaccel.codec.format.limits import CodecLimits
from genaccel.codec.image_codec import ImageCodec
from genaccel.errors import LimitExceededError, UnknownModelError
from genaccel.pipelines.accelerate_mixin import SensitivityMixin
from genaccel.pipelines.codec_pipeline import CodecPipeline
from genaccel.pipelines.compression_mixin import VQCompressionMixin
from genaccel.pipelines.dit_compression import DiTCompressionPipeline

# diffusers 0.42's DPMSolverMultistepScheduler, which is PixArt-Sigma's, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ASKED = {"output_type": "genaccel"}


class BothDiTPipeline(SensitivityMixin, VQCompressionMixin, DiTPipeline):
    """Of two mixins."""


@pytest.fixture(scope="module")
def codec():
    return ImageCodec.from_pretrained("photo-codec-high")


@pytest.fixture
def pipe(tiny_dit):
    return tiny_dit.build(DiTCompressionPipeline)


def expected_files(codec, pipe, call):
    images = pipe(**{**call, "output_type": "pil"}).images
    return [codec.encode(np.asarray(image)) for image in images]


def test_images_are_files_of_the_pipelines_images(tiny, codec):
    compressing = type("Compressing", (VQCompressionMixin, tiny.stock_class), {})
    pipe = tiny.build(compressing)
    if tiny.file == "wan":
        with pytest.raises(ValueError, match=r"makes images, and Compressing.*num_frames"):
            pipe(**tiny.call(**ASKED))
        return
    files = pipe(**tiny.call(**ASKED)).images
    assert all(isinstance(data, bytes) for data in files)
    assert files == expected_files(codec, pipe, tiny.call())
    assert codec.decode(files[0]).ndim == 3


def test_other_output_types_are_the_stock_pipelines(tiny_dit, pipe):
    stock = tiny_dit.build()
    for output_type in ("np", "pil"):
        ours = pipe(**tiny_dit.call(output_type=output_type)).images
        theirs = stock(**tiny_dit.call(output_type=output_type)).images
        assert np.array_equal(np.stack(ours), np.stack(theirs))
    assert pipe._loaded_codec is None


def test_layers_keep_their_alpha(tiny_dit, codec, monkeypatch):
    layer = np.dstack([np.full((16, 16), value, np.uint8) for value in (200, 100, 50)])
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = [Image.fromarray(np.dstack((layer, alpha)))]
    monkeypatch.setattr(DiTPipeline, "numpy_to_pil", staticmethod(lambda images: made))
    pipe = tiny_dit.build(DiTCompressionPipeline).set_codec(codec)
    (data,) = pipe(**tiny_dit.call(**ASKED)).images
    assert data == codec.encode(layer, alpha=alpha)


def test_as_a_tuple_and_by_position(tiny_dit, pipe):
    call = tiny_dit.call()
    files = pipe(**{**call, **ASKED}).images
    call["generator"].manual_seed(0)
    assert pipe(**{**call, **ASKED, "return_dict": False}) == (files,)
    call["generator"].manual_seed(0)
    positions = [call[name] for name in ("class_labels", "guidance_scale", "generator")]
    output = pipe(*positions, call["num_inference_steps"], "genaccel")
    assert output.images == files


def test_codecs_of_any_kind(tiny_dit, pipe, codec, tmp_path):
    files = pipe(**tiny_dit.call(**ASKED)).images
    codec.model.save_pretrained(tmp_path / "folder")
    in_folder = ImageCodec.from_pretrained(tmp_path / "folder")
    given = ["photo-codec-high", "photo-codec-small", codec, CodecPipeline.from_codec(codec)]
    for choice in given:
        assert pipe(**tiny_dit.call(**ASKED), codec=choice).images == files
        assert pipe.set_codec(choice) is pipe
        assert pipe(**tiny_dit.call(**ASKED)).images == files
    of_folder = expected_files(in_folder, pipe, tiny_dit.call())
    assert of_folder != files  # another model number
    for choice in (tmp_path / "folder", str(tmp_path / "folder")):
        assert pipe(**tiny_dit.call(**ASKED), codec=choice).images == of_folder
    assert pipe.codec is codec  # the calls' codecs are theirs


def test_options_of_the_encoder(tiny_dit, pipe, codec):
    assert codec.entropy_model is not None
    (first, _) = expected_files(codec, pipe, tiny_dit.call())
    pipe.set_codec(codec, static_tables=True)
    files = pipe(**tiny_dit.call(**ASKED)).images
    assert files[0] != first
    assert np.array_equal(codec.decode(files[0]), codec.decode(first))
    assert pipe.set_codec(codec)(**tiny_dit.call(**ASKED)).images[0] == first


def test_is_loaded_once(tiny_dit, pipe):
    pipe(**tiny_dit.call(**ASKED))
    loaded = pipe.codec
    pipe(**tiny_dit.call(**ASKED))
    assert pipe.codec is loaded
    assert tiny_dit.build(DiTCompressionPipeline)._loaded_codec is None


def test_what_cannot_be_is_said_in_a_sentence(tiny_dit, pipe, codec):
    with pytest.raises(UnknownModelError, match="no model 'nothing'"):
        pipe(**tiny_dit.call(**ASKED), codec="nothing")
    with pytest.raises(UnknownModelError, match="no model 'nothing'"):
        pipe.set_codec("nothing")
    with pytest.raises(TypeError, match="got int"):
        pipe(**tiny_dit.call(**ASKED), codec=3)
    with pytest.raises(ValueError, match="output_type=\"genaccel\", got output_type='np'"):
        pipe(**tiny_dit.call(), codec=codec)
    small = ImageCodec(codec.model, limits=CodecLimits(max_pixels=10))
    with pytest.raises(LimitExceededError):
        pipe(**tiny_dit.call(**ASKED), codec=small)
    with pytest.raises(TypeError, match="unexpected keyword"):
        pipe.set_codec(codec, no_option=1)
    with pytest.raises(ValueError, match="must be positive"):
        pipe.set_codec(codec, bits_per_pixel=0)


def test_signature_is_the_stock_one_and_the_codec():
    signature = inspect.signature(DiTCompressionPipeline.__call__)
    stock = inspect.signature(DiTPipeline.__call__)
    assert set(signature.parameters) - set(stock.parameters) == {"codec"}
    assert signature.parameters["codec"].kind is inspect.Parameter.KEYWORD_ONLY
    assert '`output_type="genaccel"`' in DiTCompressionPipeline.__call__.__doc__


def test_both_mixins_in_either_order(tiny_dit, codec):
    other = type("Other", (VQCompressionMixin, SensitivityMixin, DiTPipeline), {})
    above = type("Above", (SensitivityMixin, DiTCompressionPipeline), {})
    stock = set(inspect.signature(DiTPipeline.__call__).parameters)
    plain = expected_files(codec, tiny_dit.build(), tiny_dit.call())
    found = []
    for pipeline_class in (BothDiTPipeline, other, above):
        flags = set(inspect.signature(pipeline_class.__call__).parameters) - stock
        assert flags == {"accelerate", "codec"}
        pipe = tiny_dit.build(pipeline_class)
        pipe(**tiny_dit.call(accelerate="soda"))
        found.append(pipe(**tiny_dit.call(**ASKED), accelerate="soda", codec=codec).images)
        assert pipe.acceleration.report()["transformer"].flop_ratio >= 1.96
        assert pipe(**tiny_dit.call(**ASKED)).images == plain
    assert found[0] == found[1] == found[2]


def test_ready_file_works_by_its_path_and_saves_the_stock_class(tiny_dit, pipe, tmp_path):
    files = pipe(**tiny_dit.call(**ASKED)).images
    pipe.save_pretrained(tmp_path / "model")
    path = Path(genaccel.pipelines.dit_compression.__file__)
    loaded = tiny_dit.load(tmp_path / "model", custom_pipeline=str(path), trust_remote_code=True)
    assert type(loaded).__name__ == "DiTCompressionPipeline"
    assert loaded(**tiny_dit.call(**ASKED)).images == files
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "model")) is DiTPipeline


def test_made_from_a_stock_pipeline(tiny_dit, pipe):
    twin = DiTCompressionPipeline.from_pipe(tiny_dit.build())
    twin.set_progress_bar_config(disable=True)
    assert twin(**tiny_dit.call(**ASKED)).images == pipe(**tiny_dit.call(**ASKED)).images
