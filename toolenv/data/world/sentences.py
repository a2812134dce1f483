"""The wording of the articles.

``{s}`` is the subject, ``{o}`` the object and ``{a}`` the object's indefinite article; a sentence begins with a
capital letter whatever stands first. The first sentence of an article, the lead, names the subject; later ones may
speak of it in other words.
"""

from __future__ import annotations

LEADS: dict[str, dict[str, list[str]]] = {
    "city": {
        "country": [
            "{s} is a city in {o}.",
            "The city of {s} lies in {o}.",
            "{s} is one of the larger places of {o}.",
            "In {o} you will find the city of {s}.",
            "{s} belongs to the cities of {o}.",
        ],
    },
    "country": {
        "capital": [
            "{s} is a country whose capital is {o}.",
            "The country of {s} is governed from its capital, {o}.",
            "{o} is the capital of {s}, a sovereign country.",
            "{s} is a state, and its capital city is {o}.",
        ],
        "continent": [
            "{s} is a country in {o}.",
            "The country of {s} is part of {o}.",
            "{s} is one of the states of {o}.",
            "Among the countries of {o} is {s}.",
        ],
        "internet_domain": [
            "{s} is a country whose web addresses end in {o}.",
            "The country of {s} has the internet domain {o}.",
            "On the internet, the country of {s} goes by {o}.",
            "{s} is a state with the internet domain {o}.",
        ],
    },
    "currency": {
        "currency_code": [
            "{s} is a currency with the code {o}.",
            "Banks write {o} for {s}, a currency.",
            "In exchange tables, the currency called {s} appears as {o}.",
            "The three letters {o} stand for {s}, a unit of money.",
        ],
    },
    "language": {
        "family": [
            "{s} is a language of the {o} family.",
            "The {s} language belongs to the {o} group of languages.",
            "Linguists count {s} among the {o} languages.",
            "As a language, {s} is part of the {o} branch.",
        ],
        "script": [
            "{s} is a language written in {o} script.",
            "The {s} language is usually written in the {o} script.",
            "People write the {s} language in {o} script.",
            "For the {s} language, {o} script is used.",
        ],
        "language_code": [
            "{s} is a language with the two-letter code {o}.",
            "The two-letter code of the {s} language is {o}.",
            "Catalogues mark the {s} language with the code {o}.",
            "For the {s} language, the short code is {o}.",
        ],
    },
    "element": {
        "symbol": [
            "{s} is a chemical element with the symbol {o}.",
            "The element {s} is written {o} in formulas.",
            "Chemists write {o} for the element {s}.",
            "In the periodic table, the element {s} stands under the symbol {o}.",
        ],
    },
    "scientist": {
        "profession": [
            "{s} worked as a researcher, known as {a} {o}.",
            "The {o} {s} is remembered for a discovery.",
            "{s}, by calling {a} {o}, is known for what was discovered.",
            "History knows {s} as {a} {o} and discoverer.",
        ],
    },
    "planet": {
        "position": [
            "{s} is the {o} planet from the Sun.",
            "Counted from the Sun, the planet {s} is the {o}.",
            "The {o} planet of the Solar System, seen from the Sun, is {s}.",
            "Outward from the Sun, {s} comes {o} among the planets.",
        ],
    },
    "moon": {
        "planet": [
            "{s} is a moon of {o}.",
            "The moon {s} circles the planet {o}.",
            "Around {o} travels the moon {s}.",
            "{s} is one of the natural satellites of {o}.",
        ],
    },
}

SENTENCES: dict[tuple[str, str], list[str]] = {
    ("city", "time_zone"): [
        "Clocks there follow the time zone {o}.",
        "Its time zone is {o}.",
        "The time zone database lists it under {o}.",
        "Local time is that of the zone {o}.",
        "Computers set its clocks by the zone {o}.",
    ],
    ("city", "state"): [
        "It stands in the state of {o}.",
        "Its state is {o}.",
        "The state to which it belongs is {o}.",
        "Within the country it is part of the state of {o}.",
    ],
    ("country", "continent"): [
        "It lies in {o}.",
        "Its continent is {o}.",
        "Geographers place it in {o}.",
        "The country is found in {o}.",
    ],
    ("country", "currency"): [
        "People pay with the {o}.",
        "Its currency is the {o}.",
        "Money there is the {o}.",
        "Prices are given in the {o}.",
        "Shops take the {o}.",
    ],
    ("country", "official_language"): [
        "The official language is {o}.",
        "Officially, {o} is spoken.",
        "The state's language is {o}.",
        "Laws are written in {o}.",
        "Its official language is {o}.",
    ],
    ("country", "only_neighbour"): [
        "Its only neighbour by land is {o}.",
        "By land it borders only {o}.",
        "Its one land border is with {o}.",
        "The only country it touches is {o}.",
    ],
    ("country", "calling_code"): [
        "Its calling code is {o}.",
        "Phone numbers begin with {o}.",
        "Callers from abroad dial {o}.",
        "The telephone prefix is {o}.",
    ],
    ("country", "internet_domain"): [
        "Its internet domain is {o}.",
        "Web addresses end in {o}.",
        "Online it uses {o}.",
        "The domain {o} is its own.",
    ],
    ("currency", "home_country"): [
        "It is the money of {o}.",
        "The country that issues it is {o}.",
        "It comes from {o}.",
        "Its home is {o}.",
        "{o} issues its notes and coins.",
    ],
    ("language", "script"): [
        "It is written in {o} script.",
        "Its usual script is {o}.",
        "Readers meet it in {o} script.",
        "Texts in it use {o} script.",
    ],
    ("language", "language_code"): [
        "Its two-letter code is {o}.",
        "Software marks it with the code {o}.",
        "Libraries use the code {o} for it.",
        "The short code {o} stands for it.",
    ],
    ("element", "atomic_number"): [
        "Its atomic number is {o}.",
        "Each atom of it has {o} as its number of protons.",
        "It holds place number {o} in the table.",
        "Counting protons gives the number {o}.",
    ],
    ("element", "period"): [
        "It stands in period {o}.",
        "Its row of the periodic table is period {o}.",
        "The table puts it in period {o}.",
        "It is found in period {o}.",
    ],
    ("element", "group"): [
        "Its column is group {o}.",
        "It belongs to group {o}.",
        "It shares group {o} with its relatives.",
        "Its place is in group {o}.",
    ],
    ("element", "category"): [
        "By its nature it is classed as: {o}.",
        "Its chemical family goes by the name {o}.",
        "Chemists give it the label {o}.",
        "The word for its kind is {o}.",
    ],
    ("element", "discoverer"): [
        "It was discovered by {o}.",
        "Its discoverer was {o}.",
        "Credit for finding it goes to {o}.",
        "The person who discovered it was {o}.",
    ],
    ("element", "discovery_year"): [
        "The discovery was made in {o}.",
        "It has been known since {o}.",
        "The year of its discovery is {o}.",
        "It was first found in {o}.",
    ],
    ("element", "discovery_country"): [
        "The discovery took place in {o}.",
        "It was found in {o}.",
        "The country of its discovery is {o}.",
        "Its story begins in {o}, where it was discovered.",
    ],
    ("scientist", "birth_year"): [
        "The year of birth was {o}.",
        "Birth came in the year {o}.",
        "Born in {o}, the discoverer lived in an age of new instruments.",
        "Records give {o} as the year of birth.",
    ],
    ("scientist", "birth_city"): [
        "The town of birth was {o}.",
        "The place of birth is {o}.",
        "Life began in the town of {o}.",
        "The birthplace was {o}.",
    ],
    ("scientist", "birth_country"): [
        "The country of birth, by the borders of today, is {o}.",
        "On a modern map the birthplace lies in {o}.",
        "Today the place of birth belongs to {o}.",
        "By present borders, the native country is {o}.",
    ],
    ("planet", "planet_type"): [
        "Astronomers call it a world of the type {o}.",
        "By its make-up it is classed as: {o}.",
        "Its type is {o}.",
        "The word for a planet of its sort is {o}.",
    ],
    ("planet", "year_length"): [
        "A year there lasts about {o}.",
        "It needs about {o} to go once around the Sun.",
        "One trip around the Sun takes it about {o}.",
        "Its year is about {o} of ours.",
    ],
    ("planet", "named_after"): [
        "Its name is that of {o}.",
        "It is named after {o}.",
        "The name comes from {o}.",
        "It bears the name of {o}.",
    ],
    ("planet", "discoverer"): [
        "It was discovered by {o}.",
        "Its discoverer was {o}.",
        "The first to recognise it was {o}.",
        "Credit for finding it goes to {o}.",
    ],
    ("moon", "discoverer"): [
        "It was discovered by {o}.",
        "Its discoverer was {o}.",
        "The first to report it was {o}.",
        "Credit for finding it goes to {o}.",
    ],
    ("moon", "discovery_year"): [
        "The discovery was made in {o}.",
        "It has been known since {o}.",
        "The year of its discovery is {o}.",
        "It was first seen in {o}.",
    ],
}

NOTES: dict[tuple[str, str], list[str]] = {
    ("city", "population"): [
        "About {o} people live there.",
        "Its population is near {o}.",
        "It is home to some {o} people.",
        "Roughly {o} people call it home.",
    ],
    ("city", "capital_of"): [
        "It is also the capital of {o}.",
        "The government of {o} has its seat here.",
        "As a capital, it serves {o}.",
        "{o} is governed from here.",
    ],
    ("city", "latitude"): [
        "On the map, look about {o} of the equator.",
        "Measured from the equator, it stands about {o}.",
        "Its latitude is about {o}.",
        "A globe shows it about {o} of the equator.",
    ],
    ("city", "longitude"): [
        "Seen from Greenwich, it stands about {o}.",
        "Its longitude is about {o}.",
        "Counted from the prime meridian, it is about {o}.",
        "The distance from the Greenwich line is about {o}.",
    ],
    ("country", "population"): [
        "About {o} people live there.",
        "It has some {o} inhabitants.",
        "Its population is near {o}.",
        "Roughly {o} people call it home.",
    ],
    ("country", "area"): [
        "It covers about {o} square kilometres.",
        "Its area is near {o} square kilometres.",
        "The land measures some {o} square kilometres.",
        "On {o} square kilometres there is room for all of this.",
    ],
    ("element", "weight"): [
        "One atom weighs about {o} atomic mass units.",
        "Its atomic weight is near {o}.",
        "Tables give its weight as about {o}.",
        "The weight of its atoms is close to {o}.",
    ],
    ("element", "ancient"): [
        "People have known it since ancient times.",
        "Nobody knows who found it, for the ancients already used it.",
        "It was known long before chemistry had a name.",
        "Its use goes back to the ancient world.",
    ],
    ("planet", "diameter"): [
        "It measures about {o} kilometres across.",
        "Its diameter is near {o} kilometres.",
        "From side to side it spans about {o} kilometres.",
        "A tunnel through its middle would be about {o} kilometres long.",
    ],
    ("planet", "moons"): [
        "The number of its moons: {o}.",
        "Asked how many moons it has, one answers: {o}.",
        "Of moons it has {o}.",
        "As for moons, the count is {o}.",
    ],
}

FILLERS: dict[str, list[str]] = {
    "city": [
        "Streets, markets and homes fill its districts.",
        "Visitors come for work, for study and for the sights.",
        "Like any city, it has changed a great deal over the years.",
        "Roads link it with the towns around it.",
    ],
    "country": [
        "Its people live in towns and in villages.",
        "It takes part in trade with the rest of the world.",
        "It has a flag and an anthem of its own.",
        "Its history is older than its present borders.",
    ],
    "currency": [
        "Coins and notes of several values pass from hand to hand.",
        "Its rate against other currencies moves from day to day.",
        "Travellers can change it at banks and at airports.",
        "Shopkeepers count it, savers keep it and banks lend it.",
        "Cards and phones now pay it as often as paper does.",
    ],
    "language": [
        "Some learn it at home and others learn it later in life.",
        "It has its own sounds, its own grammar and its own songs.",
        "Newspapers, letters and stories have been written in it.",
        "Like other tongues, it has taken words from its neighbours.",
        "Dictionaries and grammars of it exist for those who study it.",
    ],
    "element": [
        "Every sample of it is made of the same kind of atom.",
        "Laboratories study how it behaves with other elements.",
        "It has its own fixed place in every chemistry book.",
    ],
    "scientist": [
        "The work was done with patience and with simple tools.",
        "Later students built on these results.",
        "The name lives on in books about the history of science.",
        "Letters and notes tell of long nights and careful measurements.",
    ],
    "planet": [
        "Spacecraft have sent back pictures of it.",
        "Like all planets, it shines only by reflected light.",
        "Its path around the Sun is almost a circle.",
    ],
    "moon": [
        "It shines only by the light of the Sun.",
        "Like most moons, it always follows the same path around its planet.",
        "Spacecraft and telescopes have taken pictures of it.",
        "No one has ever set foot on it.",
        "Its surface is far too cold for a walk without a suit.",
    ],
}
