"""Decisions made by hand while the facts are gathered: what to take, what to rename, and what to leave out."""

from __future__ import annotations

CITIES_PER_COUNTRY = 14
CITIES_IN = {"US": 45, "CN": 30, "IN": 30, "BR": 25, "JP": 25, "DE": 25, "FR": 25, "GB": 25, "IT": 25, "RU": 25}
MIN_CITY_POPULATION = 40_000
MIN_DISTANCE_KM = 25.0

# The members of the United Nations and the Vatican, by leaving out every other code in GeoNames.
NOT_STATES = frozenset({
    "AI", "AQ", "AS", "AW", "AX", "BL", "BM", "BQ", "BV", "CC", "CK", "CW", "CX", "EH", "FK", "FO", "GF", "GG", "GI",
    "GL", "GP", "GS", "GU", "HK", "HM", "IM", "IO", "JE", "KY", "MF", "MO", "MP", "MQ", "MS", "NC", "NF", "NU", "PF",
    "PM", "PN", "PR", "PS", "RE", "SH", "SJ", "SX", "TC", "TF", "TK", "TW", "UM", "VG", "VI", "WF", "XK", "YT", "CS",
    "AN",
})  # fmt: skip
RENAMED = {
    "NL": ("Netherlands", ["The Netherlands", "Holland"]),
    "TL": ("Timor-Leste", ["East Timor"]),
    "CV": ("Cabo Verde", ["Cape Verde"]),
    "VA": ("Vatican City", ["Holy See", "Vatican"]),
    "CZ": ("Czechia", ["Czech Republic"]),
    "TR": ("Turkey", ["Türkiye"]),
    "CI": ("Ivory Coast", ["Côte d'Ivoire"]),
    "SZ": ("Eswatini", ["Swaziland"]),
    "US": ("United States", ["United States of America", "USA", "US", "America"]),
    "GB": ("United Kingdom", ["UK", "Great Britain", "Britain"]),
    "AE": ("United Arab Emirates", ["UAE"]),
    "CD": ("Democratic Republic of the Congo", ["DR Congo", "DRC", "Congo-Kinshasa"]),
    "CG": ("Republic of the Congo", ["Congo-Brazzaville"]),
    "ST": ("Sao Tome and Principe", ["São Tomé and Príncipe"]),
    "BA": ("Bosnia and Herzegovina", ["Bosnia"]),
    "MM": ("Myanmar", ["Burma"]),
    "KP": ("North Korea", ["DPRK"]),
    "KR": ("South Korea", ["Republic of Korea"]),
    "FM": ("Micronesia", ["Federated States of Micronesia"]),
}
# None: disputed, divided between cities, or uncertain, so that no question should hang on it.
CAPITALS = {
    "BI": "Gitega",
    "KZ": "Astana",
    "US": "Washington",
    "MM": "Nay Pyi Taw",
    "MN": "Ulan Bator",
    "NL": "Amsterdam",
    "KI": "South Tarawa",
} | dict.fromkeys(["IL", "BO", "ZA", "SZ", "LK", "GQ", "VA", "SM", "NR", "ID", "PW"])
CITY_ALIASES = {
    "Astana": ["Nur-Sultan"],
    "Bengaluru": ["Bangalore"],
    "Kolkata": ["Calcutta"],
    "Kyiv": ["Kiev"],
    "Male": ["Malé"],
    "Mumbai": ["Bombay"],
    "N'Djamena": ["Ndjamena"],
    "Nay Pyi Taw": ["Naypyidaw"],
    "Sanaa": ["Sana'a"],
    "Ulan Bator": ["Ulaanbaatar"],
    "Washington, D.C.": ["Washington", "Washington DC"],
}
# Listed as cities, but parts of others, or places that few would find by this name.
NOT_CITIES = frozenset([
    "Aihara", "Bani Yas City", "Chợ Lớn", "Kallakurichi", "New South Memphis", "Rasapūdipalem", "South Boston",
    "Suginami", "Tema New Town", "Wuzhong", "Zayed City",
])  # fmt: skip
CURRENCIES = {"BG": "EUR"} | dict.fromkeys(["PA", "ZW", "BT", "CU", "SV"])
RECODED = {"BYR": "BYN", "ZMK": "ZMW", "MRO": "MRU", "STD": "STN", "VEF": "VES", "SLL": "SLE", "HRK": "EUR"}
LANGUAGES = {
    "RS": "sr", "MY": "ms", "AD": "ca", "IL": "he", "AM": "hy", "AZ": "az", "TM": "tk", "UZ": "uz", "TJ": "tg",
    "CZ": "cs", "GN": "fr", "LB": "ar", "NO": "no", "NA": "en", "AR": "es", "BZ": "en", "CD": "fr",
} | dict.fromkeys([
    "ML", "BF", "NE", "PH", "MU", "ME", "MA", "DZ", "SD", "VA", "ET", "PW",
    "PE", "WS", "KI", "TV", "PG", "TL", "MK", "NR", "FJ", "TO", "BI", "LS",
])  # fmt: skip
# Countries that lie on two continents, or on which atlases differ.
NO_CONTINENT = frozenset(["RU", "TR", "AZ", "GE", "AM", "CY", "KZ", "EG", "ID", "TL", "PA"])
NO_CALLING_CODE = {"VA", "DO", "KZ"}
# Countries with a second, small border: an island, a base, a territory overseas.
NO_ONLY_NEIGHBOUR = {"CA", "DK", "GB", "CU"}
CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America",
}  # fmt: skip
SERIES = {
    "Noble gases": "noble gas",
    "Alkali metals": "alkali metal",
    "Alkaline earth metals": "alkaline earth metal",
    "Halogens": "halogen",
    "Lanthanides": "lanthanide",
    "Actinides": "actinide",
}
SPELLINGS = {"Aluminum": ["Aluminium"], "Cesium": ["Caesium"], "Sulfur": ["Sulphur"]}

# Zones of land that two countries claim.
DISPUTED_ZONES = {"Europe/Simferopol", "Asia/Famagusta"}
