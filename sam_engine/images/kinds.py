"""Kinds of file that are known by their first bytes, but not read."""

READ = "JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF"
NO_IMAGE = "not an image"
EMPTY = "the file is empty"

_MARKUP = "markup (HTML, XML or SVG)"
_PICTURES = (
    (0, b"8BPS\x00\x01", "a Photoshop file (PSD)"),
    (0, b"8BPS\x00\x02", "a large Photoshop file (PSB)"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file (XCF)"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000 (JP2)"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"II+\x00", "a BigTIFF"),
    (0, b"MM\x00+", "a BigTIFF"),
    (0, b"IIRO", "a camera's raw file (ORF)"),
    (0, b"IIRS", "a camera's raw file (ORF)"),
    (0, b"MMOR", "a camera's raw file (ORF)"),
    (0, b"IIU\x00", "a camera's raw file (RW2)"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (0, b"FOVb", "a camera's raw file (X3F)"),
    (0, b"\x00MRM", "a camera's raw file (MRW)"),
    (4, b"ftypcrx", "a camera's raw file (CR3)"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "a Radiance picture (HDR)"),
    (0, b"#?RGBE", "a Radiance picture (HDR)"),
    (0, b"DDS ", "a DirectDraw texture (DDS)"),
    (0, b"\xabKTX ", "a Khronos texture (KTX)"),
    (0, b"qoif", "QOI"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"\x8aMNG", "MNG"),
    (0, b"\x8bJNG", "JNG"),
    (0, b"icns", "icons of macOS (ICNS)"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"\x00\x00\x02\x00", "a cursor (CUR)"),
    (0, b"\x01\xda", "an SGI picture"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster"),
    (0, b"\x0a\x05\x01", "PCX"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (40, b" EMF", "an enhanced metafile (EMF)"),
)
_NO_PICTURES = (
    (0, b"version https://git-lfs", "a Git LFS pointer: the image itself was not downloaded"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript with a preview (EPS)"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"BZh", "bzip2 data"),
    (0, b"\xfd7zXZ\x00", "xz data"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", "a tar"),
    (0, b"PAR1", "Parquet"),
    (8, b"AVI ", "a video (AVI)"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
    (4, b"moov", "a video (QuickTime)"),
    (4, b"ftyp", "a video"),
)
_NETPBM = {49: "PBM", 50: "PGM", 51: "PPM", 52: "PBM", 53: "PGM", 54: "PPM", 55: "PAM", 70: "PFM", 102: "PFM"}
_HEIC = "HEIC (pip install 'sam-engine[heic]' reads it)"
_HEIF_BRANDS = {
    b"heic": _HEIC,
    b"heix": _HEIC,
    b"heim": _HEIC,
    b"heis": _HEIC,
    b"hevc": "a sequence of HEIC",
    b"hevx": "a sequence of HEIC",
    b"mif1": "HEIF",
    b"msf1": "a sequence of HEIF",
}


def name_of_kind(data: bytes) -> str | None:
    """Return what a file that is not read is, with an article; None if its first bytes say nothing."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return _HEIF_BRANDS[data[8:12]]
    for offset, magic, name in (*_PICTURES, *_NO_PICTURES):
        if data.startswith(magic, offset):
            return name
    if data[:1] == b"P" and data[1:2] and data[1] in _NETPBM and data[2:3].isspace():
        return f"Netpbm ({_NETPBM[data[1]]})"
    if data[-18:].startswith(b"TRUEVISION-XFILE."):
        return "TGA"
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return _MARKUP
    return None


def says_no_image(error: str) -> bool:
    """Return whether the error of an UNSUPPORTED image says that it is none, not even of another kind."""
    return error.startswith((EMPTY, NO_IMAGE, _MARKUP, *(name for _, _, name in _NO_PICTURES)))
