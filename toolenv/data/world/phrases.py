"""The wording of the questions: ``{x}`` is the subject, be it a name or a longer description."""

from __future__ import annotations

QUESTIONS: dict[tuple[str, str], list[str]] = {
    ("city", "country"): [
        "In which country does {x} lie?",
        "Which country is {x} in?",
        "What country would you visit to see {x}?",
        "{x} belongs to which country?",
        "To what country does {x} belong?",
    ],
    ("city", "time_zone"): [
        "What is the time zone of {x}, as the time zone database names it?",
        "Which entry of the time zone database sets the clocks of {x}?",
        "Under which time zone name is {x} listed?",
        "Give the name of the time zone, in the form Area/Location, of {x}.",
        "By which zone of the time zone database do clocks run in {x}?",
    ],
    ("city", "state"): [
        "In which state does {x} stand?",
        "Which state is {x} part of?",
        "{x} is found in what state?",
        "What is the state that {x} belongs to?",
    ],
    ("country", "capital"): [
        "What is the capital of {x}?",
        "Which city is the capital of {x}?",
        "Name the capital city of {x}.",
        "From which capital is {x} governed?",
        "What city serves as the capital of {x}?",
    ],
    ("country", "continent"): [
        "On which continent is {x}?",
        "What continent does {x} belong to?",
        "Name the continent of {x}.",
        "Which part of the world, by continent, is {x} in?",
    ],
    ("country", "currency"): [
        "What currency is used in {x}?",
        "With which currency do people pay in {x}?",
        "What is the currency of {x}?",
        "Which money is used in {x}?",
        "Name the currency of {x}.",
    ],
    ("country", "official_language"): [
        "What is the official language of {x}?",
        "Which language is official in {x}?",
        "Name the official language of {x}.",
        "In which language are laws written in {x}?",
        "What language does the state use in {x}?",
    ],
    ("country", "only_neighbour"): [
        "Which country is the only land neighbour of {x}?",
        "What is the one country that shares a land border with {x}?",
        "By land, which single country borders {x}?",
        "Name the only country that touches {x} by land.",
    ],
    ("country", "calling_code"): [
        "What is the telephone calling code of {x}?",
        "Which calling code do you dial to phone {x}?",
        "With which prefix do phone numbers of {x} begin?",
        "Which international dialling code has been given to {x}?",
    ],
    ("country", "internet_domain"): [
        "What is the internet domain of {x}?",
        "In which internet domain do web addresses of {x} end?",
        "Which top-level domain has been given to {x}?",
        "Name the country domain on the internet of {x}.",
    ],
    ("currency", "currency_code"): [
        "What is the three-letter code of {x}?",
        "Which currency code do banks write for {x}?",
        "By which three letters is {x} known in exchange tables?",
        "Name the ISO code of {x}.",
    ],
    ("currency", "home_country"): [
        "Which country issues {x}?",
        "What country is the home of {x}?",
        "From which country does {x} come?",
        "{x} is issued by which country?",
    ],
    ("language", "language_code"): [
        "What is the two-letter code of {x}?",
        "Which two letters stand for {x} in catalogues?",
        "With which two-letter code is {x} marked?",
        "Name the short ISO code of {x}.",
    ],
    ("language", "family"): [
        "To which group of languages does {x} belong?",
        "What language family is {x} part of?",
        "Among which family of languages is {x} counted?",
        "Which family of languages includes {x}?",
        "Name the language family of {x}.",
    ],
    ("language", "script"): [
        "In which script is {x} written?",
        "What script is used for {x}?",
        "Which writing system is used for {x}?",
        "Name the script of {x}.",
    ],
    ("element", "symbol"): [
        "What is the chemical symbol of {x}?",
        "How do chemists write {x} in formulas?",
        "Which symbol stands for {x} in the periodic table?",
        "Name the symbol of {x}.",
    ],
    ("element", "atomic_number"): [
        "What is the atomic number of {x}?",
        "How many protons does an atom of {x} have?",
        "At which number does {x} stand in the periodic table?",
        "Give the atomic number of {x}.",
    ],
    ("element", "period"): [
        "In which period of the periodic table is {x}?",
        "Which period does {x} stand in?",
        "What is the number of the period of {x}?",
        "Which row, or period, of the periodic table holds {x}?",
    ],
    ("element", "group"): [
        "In which group of the periodic table is {x}?",
        "Which numbered group does {x} belong to?",
        "What is the number of the group of {x}?",
        "Which column, or group, of the periodic table holds {x}?",
    ],
    ("element", "category"): [
        "What chemical family does {x} belong to?",
        "How do chemists class {x}?",
        "What kind of element is {x}?",
        "Which label do chemists give the kind of {x}?",
    ],
    ("element", "discoverer"): [
        "Who discovered {x}?",
        "Who was the discoverer of {x}?",
        "Which person is credited with finding {x}?",
        "By whom was {x} discovered?",
    ],
    ("element", "discovery_year"): [
        "In which year was {x} discovered?",
        "When was {x} first found?",
        "What is the year of the discovery of {x}?",
        "Since which year has {x} been known?",
    ],
    ("element", "discovery_country"): [
        "In which country was {x} discovered?",
        "Where, by country, was {x} first found?",
        "What is the country of the discovery of {x}?",
        "Which country saw the discovery of {x}?",
    ],
    ("scientist", "birth_year"): [
        "In which year was {x} born?",
        "What is the year of birth of {x}?",
        "When, by year, was {x} born?",
        "Give the birth year of {x}.",
    ],
    ("scientist", "birth_city"): [
        "In which town was {x} born?",
        "What is the birthplace of {x}?",
        "Which town or city saw the birth of {x}?",
        "Name the town where {x} was born.",
    ],
    ("scientist", "birth_country"): [
        "By the borders of today, in which country was {x} born?",
        "In which present-day country was {x} born?",
        "What is the modern country of birth of {x}?",
        "On a modern map, which country holds the birthplace of {x}?",
    ],
    ("planet", "position"): [
        "Counted from the Sun, which place among the planets has {x}?",
        "What is the position of {x} from the Sun, as an ordinal?",
        "How does one number {x} among the planets, outward from the Sun?",
        "Which planet from the Sun (first, second, ...) is {x}?",
    ],
    ("planet", "planet_type"): [
        "What type of planet is {x}?",
        "How do astronomers class {x}?",
        "Of which type is {x}?",
        "What is the word for a planet of the sort of {x}?",
    ],
    ("planet", "year_length"): [
        "About how many days does a year last on {x}?",
        "How long, in days, does one trip around the Sun take {x}?",
        "What is the length in days of the year of {x}?",
        "How many days pass while {x} goes around the Sun once?",
    ],
    ("moon", "planet"): [
        "Which planet does {x} circle?",
        "Around what planet does {x} travel?",
        "What planet has {x} as a satellite?",
        "{x} belongs to which planet?",
    ],
    ("moon", "discoverer"): [
        "Who discovered {x}?",
        "Who was the discoverer of {x}?",
        "Which person first reported {x}?",
        "By whom was {x} discovered?",
    ],
    ("moon", "discovery_year"): [
        "In which year was {x} discovered?",
        "When was {x} first seen?",
        "What is the year of the discovery of {x}?",
        "Since which year has {x} been known?",
    ],
}
QUESTIONS["planet", "discoverer"] = QUESTIONS["moon", "discoverer"]

DESCRIPTIONS: dict[tuple[str, str], list[str]] = {
    ("city", "country"): [
        "the country where {x} lies",
        "the country in which {x} is found",
        "the country that {x} belongs to",
        "the home country of {x}",
    ],
    ("country", "capital"): [
        "the capital of {x}",
        "the capital city of {x}",
        "the city that is the capital of {x}",
        "the city from which {x} is governed",
    ],
    ("country", "currency"): [
        "the currency of {x}",
        "the currency used in {x}",
        "the money of {x}",
        "the currency with which people pay in {x}",
    ],
    ("country", "official_language"): [
        "the official language of {x}",
        "the language that is official in {x}",
        "the language of the state in {x}",
        "the language used officially in {x}",
    ],
    ("country", "only_neighbour"): [
        "the only land neighbour of {x}",
        "the one country that borders {x} by land",
        "the single country with a land border to {x}",
        "the only country that touches {x} by land",
    ],
    ("currency", "home_country"): [
        "the country that issues {x}",
        "the country whose money is {x}",
        "the country that {x} comes from",
        "the home country of {x}",
    ],
    ("element", "discoverer"): [
        "the discoverer of {x}",
        "the person who discovered {x}",
        "the one who found {x}",
        "the person credited with finding {x}",
    ],
    ("element", "discovery_country"): [
        "the country where {x} was discovered",
        "the country in which {x} was first found",
        "the country of the discovery of {x}",
        "the country that saw the discovery of {x}",
    ],
    ("scientist", "birth_country"): [
        "the present-day country where {x} was born",
        "the modern country of birth of {x}",
        "the country that today holds the birthplace of {x}",
        "the present native country of {x}",
    ],
    ("moon", "planet"): [
        "the planet that {x} circles",
        "the planet around which {x} travels",
        "the planet of {x}",
        "the planet that has {x} as a satellite",
    ],
    ("moon", "discoverer"): [
        "the discoverer of {x}",
        "the person who discovered {x}",
        "the one who first reported {x}",
        "the person credited with finding {x}",
    ],
}
DESCRIPTIONS["planet", "discoverer"] = DESCRIPTIONS["element", "discoverer"]

SUBJECTS: dict[str, str] = {
    "currency": "the {name}",
    "element": "the element {name}",
    "language": "the {name} language",
    "moon": "the moon {name}",
    "planet": "the planet {name}",
}
"""How a question names its first subject, where the bare name is not enough."""
