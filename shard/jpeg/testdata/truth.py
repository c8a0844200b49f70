"""Makes an archive of JPEG files and of the pixels that libjpeg-turbo and Pillow decode them to: truth.py OUT.zip small|large

Needs cjpeg and djpeg of libjpeg-turbo in PATH, and Pillow. index.txt in the archive has a line for each file and scale:
NAME SCALE WIDTH HEIGHT SHA-256 of the RGB pixels.
"""
import hashlib, io, random, subprocess, sys, zipfile
from PIL import Image

rng = random.Random(1)

def picture(w, h, grey=False):
    """Ramps, edges and noise, so that coefficients of every kind come up."""
    px = bytearray()
    for y in range(h):
        for x in range(w):
            edge = 90 if (x // 5 + y // 7) % 3 == 0 else 0
            for c in range(1 if grey else 3):
                v = (x * (3 + c) + y * (5 - c)) % 256 // 2 + edge + rng.randrange(40 if c == 0 else 25)
                px.append(min(v, 255))
    return Image.frombytes('L' if grey else 'RGB', (w, h), bytes(px))

def pnm(im):
    b = io.BytesIO(); im.save(b, 'PPM'); return b.getvalue()

def run(cmd, data):
    return subprocess.run(cmd, input=data, capture_output=True, check=True).stdout

def rgb(ppm):
    im = Image.open(io.BytesIO(ppm)).convert('RGB')
    return im.size, im.tobytes()

def add(z, lines, name, jpg, scales=(1, 2, 4, 8), pillow=False):
    z.writestr(name + '.jpg', jpg)
    for s in scales:
        if pillow:
            im = Image.open(io.BytesIO(jpg)).convert('RGB'); size, px = im.size, im.tobytes()
        else:
            size, px = rgb(run(['djpeg', '-scale', '1/%d' % s, '-pnm'], jpg))
        lines.append('%s.jpg %d %d %d %s' % (name, s, *size, hashlib.sha256(px).hexdigest()))

SAMPLINGS = {'444': '1x1,1x1,1x1', '422': '2x1,1x1,1x1', '420': '2x2,1x1,1x1', '440': '1x2,1x1,1x1', '411': '4x1,1x1,1x1', '410': '4x2,1x1,1x1',
             'chroma': '1x1,2x2,2x2', 'mixed': '2x2,2x1,1x2', '441': '1x4,1x1,1x1', 'third': '3x1,1x1,1x1', 'double': '2x1,2x1,2x1'}
VARIANTS = {'base': [], 'opt': ['-optimize'], 'rst': ['-restart', '3B'], 'prog': ['-progressive'], 'progrst': ['-progressive', '-restart', '1']}

def main(out, size):
    large = size == 'large'
    sizes = [(1, 1), (2, 1), (3, 5), (5, 3), (8, 8), (9, 16), (17, 15), (31, 33), (47, 49), (64, 2), (3, 70), (101, 67), (160, 96)] if large else [(37, 29)]
    qualities = [5, 30, 60, 80, 92, 100] if large else [75]
    lines = []
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as z:
        for w, h in sizes:
            colour, grey = pnm(picture(w, h)), pnm(picture(w, h, True))
            for q in qualities:
                for vname, v in VARIANTS.items():
                    for sname, s in SAMPLINGS.items():
                        add(z, lines, '%s-%s-%dx%d-q%d' % (sname, vname, w, h, q), run(['cjpeg', '-quality', str(q), '-sample', s] + v, colour))
                    add(z, lines, 'grey-%s-%dx%d-q%d' % (vname, w, h, q), run(['cjpeg', '-quality', str(q), '-grayscale'] + v, grey))
                    if vname in ('base', 'prog'):
                        add(z, lines, 'rgb-%s-%dx%d-q%d' % (vname, w, h, q), run(['cjpeg', '-quality', str(q), '-rgb'] + v, colour))
        special(z, lines)
        z.writestr('index.txt', '\n'.join(lines) + '\n')

# Scan scripts: a sequential file in three scans, DC and AC apart, and successive approximation in many steps.
SCRIPTS = {'scans': '0;1;2;', 'scans2': '0 1;2;',
           'steps': '0 1 2: 0-0, 0, 3; 0: 1-9, 0, 2; 2: 1-63, 0, 2; 1: 1-63, 0, 3; 0: 10-63, 0, 3; 0 1 2: 0-0, 3, 2; 0: 1-9, 2, 1; 0: 10-63, 3, 2; '
                    '1: 1-63, 3, 2; 0 1 2: 0-0, 2, 1; 0: 10-63, 2, 1; 1: 1-63, 2, 1; 2: 1-63, 2, 1; 0: 1-63, 1, 0; 1: 1-63, 1, 0; 2: 1-63, 1, 0; 0 1 2: 0-0, 1, 0;'}

def special(z, lines):
    im = picture(45, 38)
    for name, script in SCRIPTS.items():
        with open('/tmp/script.txt', 'w') as f: f.write(script)
        for s in ('420', '444', '410'):
            add(z, lines, '%s-%s' % (name, s), run(['cjpeg', '-quality', '85', '-sample', SAMPLINGS[s], '-scans', '/tmp/script.txt'], pnm(im)))
    add(z, lines, 'wide-quant', run(['cjpeg', '-quality', '1', '-sample', '2x2'], pnm(im)))
    inks = Image.merge('CMYK', [picture(45, 38, True) for _ in range(4)])
    for name, opts in {'cmyk': {}, 'cmyk-prog': {'progressive': True}}.items():
        b = io.BytesIO(); inks.save(b, 'JPEG', quality=85, **opts)
        jpg = b.getvalue()
        add(z, lines, name, jpg, (1,), True)
        at = jpg.index(b'Adobe') + 11
        add(z, lines, name.replace('cmyk', 'ycck'), jpg[:at] + b'\x02' + jpg[at + 1:], (1,), True)
        cut = jpg.index(b'\xff\xee')
        add(z, lines, name + '-plain', jpg[:cut] + jpg[cut + 16:], (1,), True)

main(sys.argv[1], sys.argv[2])
