# SPDX-License-Identifier: Apache-2.0
import torch


def test_a_checkpoint_that_is_none_is_4_and_one_line(run, tmp_path):
    torch.save({"weights": {}}, tmp_path / "other.pt")
    result = run("convert", "rdvq", "other.pt", "out")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: other.pt is no RDVQ checkpoint: it must hold tensors")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_file_is_1(run):
    result = run("convert", "rdvq", "missing.pt", "out")
    assert result.exit_code == 1
    assert "no checkpoint missing.pt" in result.stderr


def test_full_folder_is_1(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").touch()
    torch.save({"model": {}}, tmp_path / "model.pt")
    result = run("convert", "rdvq", "model.pt", "out")
    assert result.exit_code == 1
    assert "not empty" in result.stderr


def test_report_and_warning(run, monkeypatch, tmp_path):
    from genaccel.codec.training import convert_rdvq

    report = convert_rdvq.ConversionReport(
        folder=tmp_path / "out",
        autoencoder_parameters=163_718_883,
        entropy_parameters=88_125_792,
        ignored=("optimizer",),
        notes=(convert_rdvq.DRIFT_WARNING,),
    )
    asked = []
    monkeypatch.setattr(convert_rdvq, "convert_rdvq", lambda *a: asked.append(a) or report)
    result = run("convert", "rdvq", "model.pt", "out")
    assert result.exit_code == 0, result.output
    assert [str(a) for a in asked[0]] == ["model.pt", "out"]
    assert "163.7 M parameters" in result.stdout
    assert "entropy: entropy model, 88.1 M parameters" in result.stdout
    assert "not needed, left out: optimizer" in result.stdout
    assert result.stderr.startswith("warning: indices are coded with probabilities")
