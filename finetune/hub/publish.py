"""Puts a trained model on a hub, with its card; what is cut before that stands in `redaction`."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import DatasetCard, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - httpx's or httpx2's
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import DatasetInfo, ModelInfo
from huggingface_hub.utils import HFValidationError, validate_repo_id
from peft import PeftModel
from transformers import PreTrainedModel

from data_prep import InputError
from data_prep.checked_json import read_json
from data_prep.cutoffs import SPLITS, split_file
from data_prep.examples import UNLABELLED
from data_prep.prepared import MANIFEST, find_manifest
from data_prep.serializer import SERIALIZER, EventSerializer
from finetune.hub.card_picture import PICTURE
from finetune.hub.export import export_onnx
from finetune.hub.model_card import ONNX_FILE, Publication, licence_sentence, write_card
from finetune.hub.read_run import metrics_of, settings_of
from finetune.hub.redaction import (
    hub_name,
    public_config,
    public_manifest,
    public_metrics,
    public_task,
    refuse_private,
)
from finetune.model.calibration import Calibration
from finetune.model.loading import load_classifier, merged
from finetune.model.tokenization import first_line, name_for_others, readable
from finetune.runs import CALIBRATION, METRICS, TASK, read_task

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# What a published repository may hold of ours; what the new version lacks of it is deleted. A licence file stays.
OURS = ["*.json", "*.safetensors", "*.parquet", "vocab.txt", "merges.txt", "*.model", ONNX_FILE, PICTURE]
MARKS = {"model": TASK, "dataset": MANIFEST}  # only EventScribe's repositories have it
FAILURES = (HTTPError, OSError, ValueError, RuntimeError)  # of huggingface_hub, httpx and hf_xet
HARMLESS = {".gitattributes", "README.md", "LICENSE"}  # what a repository that was made by hand begins with
PSEUDONYMS = """
User ids are pseudonyms: HMAC-SHA-256 of the log's own under a key that is not published. This copy of `manifest.json`
has the config of task and text, and not where the log lies.
"""


def publish(
    folder: Path,
    repo_id: str,
    private: bool = False,
    merge: bool = False,
    dry_run: bool = False,
    with_dataset: bool = False,
    data: Path | None = None,
    licence: str | None = None,
    install: str | None = None,
    onnx: bool = False,
    tag: str | None = None,
) -> None:
    """Publish a run's model, and on request the data that it learned from.

    A repository is changed by one commit, so that it has the old version or the new one, never a part.

    Args:
        folder: runs/NAME/model, or of one seed runs/NAME/seed-N/model.
        repo_id: OWNER/NAME on the hub; the data goes to OWNER/NAME-data.
        private: Whether new repositories are private.
        merge: Publish an adapter merged into its base, as full weights.
        dry_run: Only print the files and the card; needs no network and no token.
        with_dataset: Publish the data too.
        data: Its folder; by default where the run's config has it.
        licence: By the hub's name for it. It is not guessed: without one the card says that nobody else may use it.
        install: The command that installs EventScribe at a reader's, for the card.
        onnx: Publish the model as ONNX, too.
        tag: Of the model's commit on the hub, by which it can be asked for when another one has taken its place.

    Raises:
        InputError: Something is missing, must not be published, or the hub refuses.
    """
    folder = Path(folder).resolve()
    check_publication(repo_id, licence, tag, dry_run)
    dataset = f"{repo_id}-data" if with_dataset else None
    if licence is None:
        print("no licence was named, so that nobody else may use what is published; name one as --license")
    publication = Publication(repo_id, licence, dataset, install, onnx)
    with TemporaryDirectory(prefix="eventscribe-publish-") as temporary:
        staged = {}
        if dataset:  # first, as the model's card names it
            staged[dataset] = ("dataset", stage_dataset(folder, data, Path(temporary) / "dataset", licence))
        staged[repo_id] = ("model", stage_model(folder, Path(temporary) / "model", publication, merge))
        for name, (kind, files) in staged.items():
            sizes = {path.name: path.stat().st_size for path in sorted(files.iterdir())}
            print(f"{kind} {name}, {len(sizes)} files, {sum(sizes.values()):,} bytes:")
            print("\n".join(f"{size:>14,}  {file}" for file, size in sizes.items()))
            if not dry_run:
                print(f"published: {upload(files, name, kind, private)}")
        if tag is not None and not dry_run:
            _tag(repo_id, tag)
        if dry_run:
            print((staged[repo_id][1] / "README.md").read_text(encoding="utf-8"))


def check_publication(repo_id: str, licence: str | None, tag: str | None = None, dry_run: bool = False) -> None:
    """InputError where a name is none, or there is no login; see `publish`."""
    if not dry_run and get_token() is None:
        raise InputError(f"no login at {HfApi().endpoint}", "run `hf auth login`, or set HF_TOKEN")
    if tag is not None and not re.fullmatch(r"\w[\w.-]*", tag, re.ASCII):
        raise InputError(f"--tag {tag!r} is no tag", "write letters, digits, dots and dashes", setting="--tag")
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        repo_id = ""
    if repo_id.count("/") != 1:
        raise InputError("--repo-id must be OWNER/NAME, such as me/shop-churn", setting="--repo-id")
    if licence is not None and not re.fullmatch(r"[a-z0-9.-]+", licence):
        raise InputError(
            f"--license {licence!r} is no name of a licence on the hub",
            "write one of lowercase letters, digits, dots and dashes, such as apache-2.0 or other",
            setting="--license",
        )


def stage_model(folder: Path, staged: Path, publication: Publication, merge: bool = False) -> Path:
    """Write what is published of a model into the new folder `staged`, and return it.

    Where the calibration is a temperature, full weights take it up: the head's last layer is divided by it, so that
    plain transformers gives the calibrated probabilities too.

    Raises:
        InputError: A file of the run is missing, or would tell of single users or of this machine.
    """
    task, metrics = read_task(folder), metrics_of(folder)
    serializer = EventSerializer.from_pretrained(folder)
    refuse_private(task, serializer)
    model, tokenizer = load_classifier(folder)
    calibration = Calibration.load(folder)
    if merge:
        model = merged(folder, model, "; drop --merge")
    staged.mkdir(parents=True)
    calibration = _stage_weights(folder, model, calibration, staged)
    tokenizer.save_pretrained(staged)
    name_for_others(staged)
    serializer.save_pretrained(staged)
    if (folder / CALIBRATION).is_file():
        # To decide by group is up to the shop, under its own law; nobody who fetches the model inherits it.
        replace(calibration, group_by=None, group_equal=None, group_thresholds={}).save(staged)
    _write_json(staged / TASK, public_task(task))
    _write_json(staged / METRICS, public_metrics(metrics))
    for path in staged.glob("*config.json"):
        _write_json(path, public_config(read_json(path, {}, "train again")))
    if publication.onnx:
        export_onnx(staged, staged / ONNX_FILE)  # of the published weights, which may have taken up a temperature
    write_card(staged, folder, model, tokenizer, calibration, publication)
    return staged


def _stage_weights(folder: Path, model: PreTrainedModel, calibration: Calibration, staged: Path) -> Calibration:
    """Write the adapter's weights, or full weights that take up a temperature; returns the calibration that is left."""
    if isinstance(model, PeftModel):
        base = model.active_peft_config.base_model_name_or_path
        if hub_name(base) is None:
            raise InputError(f"{folder} is an adapter of a model on this machine, {base}", "add --merge")
        for name in ADAPTER:
            shutil.copyfile(folder / name, staged / name)
        model.config.save_pretrained(staged)
        return calibration
    temperature = calibration.temperature
    if calibration.method == "temperature" and temperature is not None and divide_logits(model, temperature):
        calibration = replace(calibration, temperature=1.0)
    model.save_pretrained(staged)
    return calibration


def divide_logits(model: PreTrainedModel, temperature: float) -> bool:
    """Divide weight and bias of the last linear layer, where its outputs are the logits; says whether it did."""
    head = [part for part in model.modules() if isinstance(part, torch.nn.Linear)][-1]
    if head.out_features != model.config.num_labels:
        return False
    with torch.no_grad():
        for weights in head.parameters():
            weights /= temperature
    return True


def stage_dataset(folder: Path, data: Path | None, staged: Path, licence: str | None = None) -> Path:
    """Write what is published of the model's data into the new folder `staged`, and return it.

    Raises:
        InputError: The data is not that of the model, or has the log's own user ids.
    """
    task = read_task(folder)
    data = Path(data or Path(settings_of(folder)["data"]["folder"]) / task["name"])
    manifest = find_manifest(data)
    if manifest is None or manifest["content_hash"] != task["content_hash"]:
        raise InputError(f"{data} is not the data that {folder} was trained on", "give its folder as --data")
    if manifest["config"]["data"]["pseudonymize"] is None:
        raise InputError(
            f"{data} has the log's own user ids", "set data.pseudonymize, prepare and train again to publish it"
        )
    files = [split_file(split) for split in (*SPLITS, UNLABELLED)]
    staged.mkdir(parents=True)
    for name in (*files, SERIALIZER):
        (staged / name).symlink_to((data / name).resolve())  # they can be large
    _write_json(staged / MANIFEST, public_manifest(manifest))
    with readable(f"{data / 'README.md'} cannot be read", "run scripts/prepare.py again"):
        card = DatasetCard((data / "README.md").read_text(encoding="utf-8"))
    card.data.license = licence  # pyright: ignore[reportAttributeAccessIssue] - its type is said to be a class
    card.text += f"{PSEUDONYMS}\n{licence_sentence(licence)}\n"
    card.save(staged / "README.md")
    return staged


def upload(staged: Path, repo_id: str, kind: str, private: bool) -> str:
    """Make the repository where it is missing, and commit the files of a folder to it.

    A repository that this call made is deleted again if the commit does not reach it.

    Args:
        staged: The files.
        repo_id: OWNER/NAME.
        kind: model or dataset.
        private: Whether a new repository is private.

    Returns:
        The commit's address.

    Raises:
        InputError: The hub refuses, cannot be reached, or has something else under that name.
    """
    api = HfApi()
    old = _existing(api, repo_id, kind)
    if old is not None:
        _refuse_strange(old, kind, private)
    made = False
    try:
        if old is None:
            api.create_repo(repo_id, repo_type=kind, private=private)
            made = True
        return api.upload_folder(
            repo_id=repo_id,
            repo_type=kind,
            folder_path=staged,
            commit_message=f"Publish {kind} with EventScribe",
            delete_patterns=OURS,
        ).commit_url
    except (*FAILURES, KeyboardInterrupt) as error:
        left = "it has its old version, or the new one whole"
        if old is None:
            left = _delete_empty(api, repo_id, kind) if made or _perhaps_made(error) else "nothing was published"
        if isinstance(error, KeyboardInterrupt):
            print(f"\n{repo_id}: {left}")
            raise
        raise InputError(f"{_why(error, api, repo_id)} ({repo_id}: {left})") from error


def _tag(repo_id: str, tag: str) -> None:
    """Call the newest commit so."""
    api = HfApi()
    try:
        api.create_tag(repo_id, tag=tag, tag_message="By EventScribe")
    except FAILURES as error:
        raise InputError(f"{_why(error, api, repo_id)} ({repo_id} is published, without the tag {tag})") from error
    print(f"tag: {tag}")


def _existing(api: HfApi, repo_id: str, kind: str) -> ModelInfo | DatasetInfo | None:
    """What the hub says of a repository; None where there is none that the token may see."""
    try:
        found = api.repo_info(repo_id, repo_type=kind)
    except RepositoryNotFoundError:
        return None
    except FAILURES as error:
        raise InputError(_why(error, api, repo_id)) from error
    assert isinstance(found, ModelInfo | DatasetInfo)  # as `kind` says
    return found


def _refuse_strange(old: ModelInfo | DatasetInfo, kind: str, private: bool) -> None:
    names = {entry.rfilename for entry in old.siblings or []}
    if names - HARMLESS and MARKS[kind] not in names:
        raise InputError(
            f"{old.id} holds something else than a {kind} of EventScribe ({min(names - HARMLESS)})",
            "give another --repo-id",
        )
    if private and not old.private:
        raise InputError(f"{old.id} is there and public", "make it private on the hub, or leave --private out")


def _perhaps_made(error: BaseException) -> bool:
    """Whether the hub may have made a repository although it was not told so: not after a clear refusal."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500


def _delete_empty(api: HfApi, repo_id: str, kind: str) -> str:
    """Delete the repository if nothing was committed to it; says what is there now."""
    try:
        if set(api.list_repo_files(repo_id, repo_type=kind)) - {".gitattributes"}:
            return "it is published all the same, only the hub's answer got lost"
        api.delete_repo(repo_id, repo_type=kind)
    except RepositoryNotFoundError:
        pass
    except FAILURES:
        return "an empty repository may be left there, which could not be deleted; do so on the hub"
    return "nothing was published"


def _why(error: Exception, api: HfApi, repo_id: str) -> str:
    """What went wrong and what helps."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to publish"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return f"{api.endpoint} does not accept the token (401); run `hf auth login`, or set another HF_TOKEN"
        if status == 403:
            return f"the token may not write to {repo_id} (403); take one that may, or another --repo-id"
        if status == 409:
            return f"somebody else is changing {repo_id} at this moment (409); run the command again"
        if status >= 500:
            return f"{api.endpoint} failed ({status}); run the command again later"
        return f"{api.endpoint} refused ({status}: {error.server_message or first_line(error)}); mend that first"
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return f"{api.endpoint} refuses the card ({' '.join(str(error).split())}); see --license and task.json"
    return f"the connection to {api.endpoint} broke ({first_line(error)}); run the command again"


def _write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
