# Made the figures in pillow.json: what Pillow makes of full-size photographs. See README.md.
import hashlib, io, json, sys, tarfile
import PIL
from PIL import Image


def sha(images):
    h = hashlib.sha256()
    for m in images:
        h.update(m.tobytes())
    return h.hexdigest()


def box(i, w, h):
    """A part of the image: from a tenth of it to all of it, at a place that goes round."""
    bw, bh = max(1, w * (10 + 7 * i % 91) // 100), max(1, h * (10 + 11 * i % 91) // 100)
    return (w - bw) * (i % 5) // 4, (h - bh) * (i % 3) // 2, bw, bh


def shorter(w, h, s):
    return (s, s * h // w) if w <= h else (s * w // h, s)


out = {"pillow": PIL.__version__, "images": []}
files = tarfile.open(sys.argv[1])
members = sorted((m.name.split("/")[-2], m.name.split("/")[-1], m) for m in files if m.isfile())
for i, (_, _, member) in enumerate(members):
    m = Image.open(io.BytesIO(files.extractfile(member).read())).convert("RGB")
    x, y, w, h = box(i, *m.size)
    crop = m.crop((x, y, x + w, y + h)).resize((224, 224), Image.BILINEAR)
    scales = [m.resize(shorter(*m.size, s), Image.BILINEAR) for s in (224, 256, 384, 480, 640)]
    out["images"].append([sha([crop]), sha(scales)])
json.dump(out, open(sys.argv[2], "w"), indent=0)
