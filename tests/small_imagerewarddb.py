"""A small ImageRewardDB in the layout of the hub: tables with a row per image, zips, some broken images."""

import io
import json
import random
import zipfile

import pyarrow
import pyarrow.parquet
from PIL import Image

REPO = "datasets/zai-org/ImageRewardDB"
ZIPS = {"train": 8, "validation": 2, "test": 2}
PROMPTS = 5  # per zip
IMAGES = 4  # per prompt


def sample_image(seed, side=24, form="WEBP"):
    data = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)).save(data, form)
    return data.getvalue()


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def table(rows, **options):
    data = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data, **options)
    return data.getvalue()


def small_imagerewarddb(zips=ZIPS, side=24, broken=True):
    """Return {filename: content} of the repository.

    The ranks in a prompt are 1, 2, 2, 4, so 5 of 6 pairs are untied. With ``broken``, the first zip of each
    split has an invalid image (prompt 0), an empty and a truncated one (prompt 1), and three images of prompt
    2 are missing.
    """
    files = {"README.md": b"as published", ".gitattributes": b"*.zip filter=lfs"}
    for split, count in zips.items():
        rows = []
        for number in range(1, count + 1):
            members = {}
            for p in range(PROMPTS):
                for x, rank in enumerate((1, 2, 2, 4)):
                    name = f"{split}-{number}-{p}-{x}.webp"
                    members[name] = sample_image(f"{name}", side)
                    rows.append(
                        {
                            "image_path": f"images/{split}/{split}_{number}/{name}",
                            "prompt_id": f"{split}-{number:04}-{p}",
                            "prompt": f"prompt {p} of {split} {number}",
                            "classification": "Art",
                            "image_amount_in_total": IMAGES,
                            "rank": rank,
                            "overall_rating": 8 - rank,
                            "image_text_alignment_rating": 5,
                            "fidelity_rating": 5,
                        }
                    )
            if broken and number == 1:
                names = list(members)
                members[names[0]] = b"no image at all"
                members[names[4]] = b""
                members[names[5]] = members[names[5]][:-40]
                for name in names[8:11]:
                    del members[name]
            members[f"{split}_{number}.json"] = json.dumps(rows[-PROMPTS * IMAGES :]).encode()
            files[f"images/{split}/{split}_{number}.zip"] = zipped(members)
        files[f"metadata-{split}.parquet"] = table(rows)
    return files
