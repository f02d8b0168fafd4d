"""Small trees in the official layouts of retrieval data."""

import csv
import pickle

import numpy as np
from data_pictures import write, write_classes
from scipy.io import savemat

IN_SHOP = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/WOMEN/Dresses/id_00000007/01_1_front.jpg", "id_00000007", "query"),
    ("img/WOMEN/Dresses/id_00000007/01_2_side.jpg", "id_00000007", "gallery"),
    ("img/WOMEN/Dresses/id_00000007/04_3_back.jpg", "id_00000007", "gallery"),
    ("img/MEN/Shirts and Polos/id_00000009/01_1_front.jpg", "id_00000009", "query"),
    ("img/MEN/Denim/id_00000011/01_1_front.jpg", "id_00000011", "gallery"),
]
IMAGES = ["all_souls_000013", "radcliffe 2", "christ_church_1", "magdalen_7", "ashmolean_3", "keble_0"]
QUERIES = ["all_souls_000026", "oxford_002904", "pitt_rivers_1"]
BOXES = [[3.2, 1.6, 20.4, 15.5], [0.0, 0.0, 30.6, 19.9], [5, 5, 9, 9]]
TRUTH = [
    {"easy": [0, 3], "hard": [2], "junk": [5]},
    {"easy": [], "hard": [1, 4], "junk": []},
    {"easy": [2], "hard": [], "junk": [0, 1]},
]


def write_cub(root):
    root = root / "CUB_200_2011"
    pictures = {1: 2, 100: 1, 101: 3, 102: 1, 200: 2}  # images of some classes
    write_classes(root / "images", {f"{number:03d}.Bird_{number}": count for number, count in pictures.items()}, ".jpg")
    files = sorted(path.relative_to(root / "images").as_posix() for path in root.rglob("*.jpg"))
    (root / "images.txt").write_text("".join(f"{row} {file}\n" for row, file in enumerate(files, 1)))
    labels = "".join(f"{row} {int(file[:3])}\n" for row, file in enumerate(files, 1))
    (root / "image_class_labels.txt").write_text(labels)
    (root / "classes.txt").write_text("".join(f"{number} {number:03d}.Bird_{number}\n" for number in range(1, 201)))
    return root


def write_sop(root):
    root = root / "Stanford_Online_Products"
    root.mkdir()
    heading = "image_id class_id super_class_id path\n"
    test = [(3, "bicycle_final/1_0.JPG"), (3, "bicycle_final/1_1.JPG"), (4, "lamp_final/éclair 2_0.JPG")]
    train = [(1, "chair_final/9_0.JPG"), (1, "chair_final/9_1.JPG")]
    for part, listed in (("test", test), ("train", train)):
        text = "".join(f"{row} {product} 1 {path}\n" for row, (product, path) in enumerate(listed, 1))
        (root / f"Ebay_{part}.txt").write_text(heading + text, encoding="utf-8")
        for row, (_, path) in enumerate(listed):
            write(root / path, row + 10 * (part == "train"))
    return root


def write_copydays(root):
    for photograph in ("200000", "200100", "210300"):
        write(root / "original" / f"{photograph}.jpg", 1)
        for quality in ("3", "75"):
            write(root / "jpegqual" / quality / f"{photograph}.jpg", 2)
        write(root / "crops" / "10" / f"{photograph}.jpg", 3)
    for copy in ("200001", "200002", "210301"):
        write(root / "strong" / f"{copy}.jpg", 4)


def write_pickle(file, protocol=2):
    kinds = (np.array, list, lambda positions: np.array(positions, np.int32))
    gnd = [
        {**{name: kind(positions) for name, positions in found.items()}, "bbx": box}
        for kind, found, box in zip(kinds, TRUTH, BOXES, strict=True)
    ]
    file.write_bytes(pickle.dumps({"gnd": gnd, "imlist": IMAGES, "qimlist": QUERIES}, protocol))


def write_mat(file, images=IMAGES, queries=QUERIES, truth=TRUTH, boxes=BOXES, fields=("bbx", "easy", "hard", "junk")):
    """As MATLAB saves it: cell arrays of rows, a struct array of row vectors of doubles, positions from 1."""
    gnd = np.zeros((1, len(queries)), [(field, object) for field in fields])
    for index, (found, box) in enumerate(zip(truth, boxes, strict=True)):
        gnd[0, index]["bbx"] = np.array([box], float)
        for name, positions in found.items():
            gnd[0, index][name] = np.array([positions], float) + 1
    cells = [
        np.array([np.array([name]) for name in listed] + [None], object)[None, :-1] for listed in (images, queries)
    ]
    savemat(file, {"imlist": cells[0], "qimlist": cells[1], "gnd": gnd})


def write_revisited(root, name, form, images="jpg"):
    for row, stem in enumerate(IMAGES + QUERIES):
        write(root / name / images / f"{stem}.jpg", row)
    (write_pickle if form == "pkl" else write_mat)(root / name / f"gnd_{name}.{form}")


def write_landmarks(root):
    index = ["0123456789abcdef", "01ff000000000000", "f000000000000001"]
    test = {"aaaa000000000000": ("Public", index[:2]), "bbbb000000000000": ("Private", index[2:])}
    test["cccc000000000000"] = ("Private", [])
    test["dddd000000000000"] = ("Ignored", [])
    for part, listed in (("index", index), ("test", list(test))):
        for row, name in enumerate(listed):
            if name != "dddd000000000000":  # ignored: its image is not needed
                write(
                    root / part / name[0] / name[1] / name[2] / f"{name}.jpg",
                    row + 10 * (part == "test"),
                    height=4,
                    width=4,
                )
    (root / "index.csv").write_text("id\n" + "".join(f"{name}\n" for name in index))
    with (root / "retrieval_solution_v2.1.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "images", "Usage"])
        for name, (usage, positives) in test.items():
            table.writerow([name, " ".join(positives) or "None", usage])
