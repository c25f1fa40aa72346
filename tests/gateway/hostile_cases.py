"""What attackers and broken clients send, and how it must be answered."""

from __future__ import annotations

from raw_http import chunk, chunked, get, post

TOKENIZE = "/tokenize"


def _prompt(json_text: bytes) -> bytes:
    return b'{"prompt": ' + json_text + b"}"


BODIES: dict[str, tuple[bytes, str]] = {
    # name -> body, code of the 400
    "nothing": (b"", "invalid_json"),
    "blanks": (b" \t\r\n", "invalid_json"),
    "half an object": (b"{", "invalid_json"),
    "no value": (b'{"prompt": }', "invalid_json"),
    "single quotes": (b"{'prompt': 'x'}", "invalid_json"),
    "a trailing comma": (b'{"prompt": "x",}', "invalid_json"),
    "two values": (b'{"prompt": "x"} {"prompt": "y"}', "invalid_json"),
    "a raw line break in a string": (b'{"prompt": "a\nb"}', "invalid_json"),
    "a raw NUL": (b'{"prompt": "a\x00b"}', "invalid_json"),
    "a comment": (b'{"prompt": "x"} // x', "invalid_json"),
    "a string": (b'"x"', "invalid_json"),
    "a number": (b"1", "invalid_json"),
    "null": (b"null", "invalid_json"),
    "an array": (b"[]", "invalid_json"),
    "NaN": (_prompt(b"NaN"), "invalid_json"),
    "Infinity": (_prompt(b"Infinity"), "invalid_json"),
    "-Infinity": (_prompt(b"-Infinity"), "invalid_json"),
    "1e999": (_prompt(b"1e999"), "invalid_json"),
    "-1e999": (_prompt(b"-1e999"), "invalid_json"),
    "NaN deep inside": (b'{"messages": [{"content": [NaN]}]}', "invalid_json"),
    "an integer of 5000 digits": (_prompt(b"1" * 5000), "invalid_json"),
    "an integer of 5 million digits": (_prompt(b"9" * 5_000_000), "invalid_json"),
    "an exponent of 5000 digits": (_prompt(b"1e" + b"9" * 5000), "invalid_json"),
    "invalid UTF-8": (_prompt(b'"\xff\xfe"'), "invalid_json"),
    "overlong UTF-8": (_prompt(b'"\xc0\xaf"'), "invalid_json"),
    "a surrogate in UTF-8": (_prompt(b'"\xed\xa0\x80"'), "invalid_json"),
    "UTF-16": ('{"prompt": "x"}'.encode("utf-16"), "invalid_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + _prompt(b'"x"'), "invalid_json"),
    "a lone high surrogate": (_prompt(rb'"\ud800"'), "invalid_json"),
    "a lone low surrogate": (_prompt(rb'"a\udfffb"'), "invalid_json"),
    "surrogates in the wrong order": (_prompt(rb'"\udc00\ud800"'), "invalid_json"),
    "a lone surrogate in a key": (rb'{"\ud800": 1}', "invalid_json"),
    "100000 open arrays": (b"[" * 100_000, "invalid_json"),
    "100000 open objects": (b'{"a":' * 100_000, "invalid_json"),
    "an array 33 deep": (_prompt(b"[" * 33 + b"]" * 33), "invalid_json"),
    "a key twice": (b'{"prompt": "x", "prompt": "y"}', "duplicate_key"),
    "a key twice inside": (b'{"messages": [{"role": "user", "role": "system"}]}', "duplicate_key"),
    "an unknown key": (b'{"prompt": "x", "promt": 1}', "unknown_parameter"),
    "a long unknown key": (b'{"' + b"k" * 100_000 + b'": 1}', "unknown_parameter"),
    "a key with line breaks": (rb'{"a\nb\r\u2028": 1}', "unknown_parameter"),
    "an empty object": (b"{}", "invalid_value"),
}

_OK = post(TOKENIZE, _prompt(b'"x"'), close=False)
_CHUNKED = chunked(TOKENIZE)
_BODY = _prompt(b'"x"')

REFUSED: dict[str, tuple[bytes, int]] = {
    # name -> everything that is sent, status of the only answer
    "no HTTP": (b"hello\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a TLS hello": (bytes.fromhex("16030100a5010000a10303") + b"\r\n\r\n", 400),
    "binary": (bytes(range(256)) * 8 + b"\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "a header without a colon": (get("/health", "nonsense"), 400),
    "a space before the colon": (get("/health", "X : y"), 400),
    "NUL in a header": (get("/health", "X: a\x00b"), 400),
    "two lengths": (post(TOKENIZE, _BODY, "Content-Length: 5"), 400),
    "a negative length": (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "a length with a sign": (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
    "a length of 400 digits": (
        b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
        400,
    ),
    "a length of exabytes": (
        b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: 1152921504606846976\r\n\r\n",
        413,
    ),
    "length and chunks": (post(TOKENIZE, chunk(_BODY) + b"0\r\n\r\n", "Transfer-Encoding: chunked"), 400),
    "an unknown transfer encoding": (post(TOKENIZE, b"", "Transfer-Encoding: gzip, chunked"), 501),
    "a chunk size that is none": (_CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400),
    "a negative chunk size": (_CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk size of 40 digits": (_CHUNKED + b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk longer than its size": (_CHUNKED + b"2\r\n{}{}{}\r\n0\r\n\r\n", 400),
    "an endless chunk extension": (_CHUNKED + b"2;" + b"x" * 100_000, 431),
    "endless trailers": (_CHUNKED + chunk(b"{}") + b"0\r\n" + b"X: y\r\n" * 50_000, 431),
    "a header of 64 KiB at once": (get("/health", "X: " + "y" * 65_536), 431),
    "a header of 1 MiB": (get("/health", "X: " + "y" * 2**20), 431),
    "a header that never ends": (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2**20, 431),
    "150 headers": (get("/health", *[f"X-{i}: y" for i in range(150)]), 431),
    "10000 headers": (get("/health", *[f"X-{i}: y" for i in range(10_000)]), 431),
    "a path of 1 MiB": (get("/" + "a" * 2**20), 431),
    "a path of 12 KiB": (get("/" + "a" * 12_000), 404),
    "an unknown method": (b"FROB /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    "TRACE": (b"TRACE /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "an absolute path": (get("http://evil/health"), 404),
    "a path with an encoded NUL": (get("/v1/models/%00"), 404),
    "a path that is not UTF-8": (get("/v1/models/%ff%fe%ed%a0%80"), 404),
    "a path that climbs": (get("/v1/models/../../etc/passwd"), 404),
    "no content type": (post(TOKENIZE, _BODY, kind=""), 415),
    "a form": (post(TOKENIZE, b"prompt=x", kind="application/x-www-form-urlencoded"), 415),
    "multipart": (post(TOKENIZE, b"--x--", kind="multipart/form-data; boundary=x"), 415),
    "text": (post(TOKENIZE, _BODY, kind="text/plain"), 415),
    "latin-1": (post(TOKENIZE, _BODY, kind="application/json; charset=latin-1"), 415),
    "gzip": (post(TOKENIZE, b"\x1f\x8b", "Content-Encoding: gzip"), 415),
    "a request id with a line break": (post(TOKENIZE, _BODY, "X-Request-Id: a b"), 400),
    "two request ids": (post(TOKENIZE, _BODY, "X-Request-Id: a", "X-Request-Id: b"), 400),
    "a long request id": (post(TOKENIZE, _BODY, "X-Request-Id: " + "a" * 101), 400),
}
