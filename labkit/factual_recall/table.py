"""Where data/countries.csv comes from: the asset `countries`, one rule for who is in, and corrections by hand.

`python -m labkit.factual_recall.table` writes the table anew and prints every correction.
"""

import csv
import io
import json

from labkit import assets
from labkit.lm import LanguageModel

from .facts import TABLE, Country

POPULATION = 5_000_000  # as the asset has it, about 2015
# not members of the United Nations
NOT_MEMBERS = ["Antarctica", "Bermuda", "Gibraltar", "Greenland", "Guam", "Jersey", "Palestine", "Taiwan"]
TWO_ANSWERS = ["Benin", "Bolivia", "Israel"]  # the seat of government is elsewhere, or the capital is disputed

LANGUAGES = dict(
    am="Amharic", ar="Arabic", az="Azerbaijani", be="Belarusian", bg="Bulgarian", bn="Bengali", da="Danish",
    de="German", el="Greek", en="English", es="Spanish", fa="Persian", fi="Finnish", fr="French", ga="Irish",
    he="Hebrew", hi="Hindi", hu="Hungarian", id="Indonesian", it="Italian", ja="Japanese", kk="Kazakh", km="Khmer",
    lo="Lao", my="Burmese", ne="Nepali", nl="Dutch", no="Norwegian", pl="Polish", ps="Pashto", pt="Portuguese",
    ro="Romanian", ru="Russian", rw="Kinyarwanda", sk="Slovak", so="Somali", sv="Swedish", sw="Swahili", th="Thai",
    tr="Turkish", uk="Ukrainian", uz="Uzbek", vi="Vietnamese", zh="Chinese",
)  # fmt: skip
CURRENCIES = dict(
    AFN="afghani", AOA="kwanza", ARS="peso", AUD="dollar", AZN="manat", BDT="taka", BGN="lev", BRL="real",
    BYR="ruble", CAD="dollar", CHE="franc", CLF="peso", CNY="yuan", COP="peso", CUC="peso", DKK="krone", DZD="dinar",
    EGP="pound", ETB="birr", EUR="euro", GHS="cedi", GNF="franc", HNL="lempira", HTG="gourde", HUF="forint",
    IDR="rupiah", INR="rupee", IQD="dinar", IRR="rial", JOD="dinar", JPY="yen", KES="shilling", KHR="riel",
    KZT="tenge", LAK="kip", LYD="dinar", MAD="dirham", MGA="ariary", MMK="kyat", MWK="kwacha", MYR="ringgit",
    MZN="metical", NGN="naira", NIO="cordoba", NOK="krone", NPR="rupee", PEN="sol", PHP="peso", PKR="rupee",
    PLN="zloty", PYG="guarani", RON="leu", RSD="dinar", RUB="ruble", RWF="franc", SDG="pound", SEK="krona",
    SOS="shilling", SYP="pound", THB="baht", TND="dinar", TRY="lira", TZS="shilling", UAH="hryvnia", UGX="shilling",
    USD="dollar", UZS="som", VEF="bolivar", VND="dong", XAF="franc", XOF="franc", YER="rial", ZMK="kwacha",
)  # fmt: skip
CORRECTIONS = {  # (country, column): (what is right, why)
    ("Kazakhstan", "capital"): ("Astana", "its name again since 2022"),
    ("Cameroon", "language"): ("French", "most speak French; both are official"),
    ("Ireland", "language"): ("English", "nearly all speak English; Irish is the first official language"),
    ("Kenya", "language"): ("Swahili", "most speak Swahili; both are official"),
    ("Madagascar", "language"): ("Malagasy", "all speak Malagasy; both are official"),
    ("Malaysia", "language"): ("Malay", "the asset names none"),
    ("Mali", "language"): ("Bambara", "French is no longer official since 2023"),
    ("Pakistan", "language"): ("Urdu", "the national language"),
    ("Philippines", "language"): ("Filipino", "the national language"),
    ("Serbia", "language"): ("Serbian", "the asset's code, rs, is no language"),
}
HEAD = """\
# One capital, one language and one currency of each country, as of 2024: what the facts of lesson 50 are checked with.
# From: the 254 objects of countryinfo 1.0.1 (the asset `countries` in data/assets.toml), P. Chandro; licence: MIT.
# Who is in: members of the United Nations with more than 5 million people whose name, after a space, is one token of
#   SmolLM2. Left out: where the capital repeats the country's name (Mexico City: a copy answers it) and where there
#   are two answers (Benin, Bolivia, Israel).
# Changed: codes became English words (the first of several languages and currencies), and by hand:
"""


def asset() -> list[dict]:
    """Every object of the asset: they stand one after another in its file."""
    text, decode, at, found = assets.path("countries").read_text(encoding="utf8").strip(), json.JSONDecoder(), 0, []
    while at < len(text):
        country, at = decode.raw_decode(text, at)
        found.append(country)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def from_asset(lm: LanguageModel) -> list[Country]:
    """The rows of the table before any correction by hand; a language that the asset does not know is ""."""
    rows = []
    for entry in asset():
        name, capital = entry["name"], entry["capital"]
        if name in NOT_MEMBERS + TWO_ANSWERS or entry.get("population", 0) <= POPULATION:
            continue
        if lm.encode(f" {name}").numel() == 1 and not capital.startswith(name):
            language = LANGUAGES.get(next(iter(entry["languages"]), ""), "")
            rows.append(Country(name, capital, language, CURRENCIES[entry["currencies"][0]]))
    return sorted(rows)


def corrected(rows: list[Country]) -> list[Country]:
    """The same rows, with CORRECTIONS in place."""
    fixes: dict[str, dict[str, str]] = {name: {} for name, *_ in rows}
    for (name, column), (right, _) in CORRECTIONS.items():
        fixes[name][column] = right
    return [row._replace(**fixes[row.country]) for row in rows]


def written(rows: list[Country]) -> str:
    """The text of data/countries.csv."""
    out = io.StringIO()
    out.write(HEAD)
    for (name, column), (right, why) in CORRECTIONS.items():
        out.write(f"#   {name}, {column}: {right} ({why})\n")
    csv.writer(out, lineterminator="\n").writerows([Country._fields, *rows])
    return out.getvalue()


if __name__ == "__main__":
    from labkit.lm import load

    rows = from_asset(load())
    for (name, column), (right, why) in CORRECTIONS.items():
        was = next(getattr(row, column) for row in rows if row.country == name)
        print(f"{name}, {column}: {was!r} became {right!r}: {why}")
    TABLE.write_text(written(corrected(rows)), encoding="utf8")
    print(f"{TABLE.name}: {len(rows)} countries")
