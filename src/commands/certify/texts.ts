// Texts that a merged language model is compared on where the user gives none: prose, dialogue, code and tables in several languages.
export const builtInTexts: readonly string[] = [
  "The library opens at nine. By half past eight a line has formed along the wall, because the reading room has forty seats and the whole town wants one of them. The librarian unlocks the door, counts the first forty people in, and asks the others to come back after lunch.",
  "Question: A farmer has 17 sheep, and all but 9 run away. How many are left?\nAnswer: All but 9 ran away, so 9 are left. It does not matter how many there were at first.",
  "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError('the mean of nothing is not defined')\n    return sum(values) / len(values)\n\n\nassert mean([1.0, 2.0, 6.0]) == 3.0\n",
  "Der Zug fährt um 7:42 Uhr von Gleis 3 ab und kommt, wenn nichts dazwischenkommt, um 9:15 Uhr an. Wer eine Fahrkarte braucht, kauft sie am Automaten neben dem Eingang.",
  "La recette est simple : trois œufs, une pincée de sel, un peu de beurre. On bat les œufs, on fait fondre le beurre, et l'omelette est prête en quatre minutes.",
  "昨天下午下了一场大雨，街上几乎没有人。雨停以后，孩子们跑出来，在水坑里跳来跳去。",
  '{"name": "Ada", "born": 1815, "topics": ["analysis", "engines"], "letters": [{"to": "Charles", "pages": 12}, {"to": "Mary", "pages": 3}]}',
  "| city | population | area |\n|---|---|---|\n| Graz | 303,270 | 127.6 |\n| Linz | 212,538 | 96.0 |\n| Wels | 65,482 | 45.9 |\n",
  "Once there was a clock that ran backwards. The children of the house thought nothing of it: they were used to being an hour younger at supper than at tea. Only the guests were troubled, and they left before they had come.",
  "Water boils at 100 °C at sea level, and at about 93 °C at 2,000 metres, since the air presses less on it there. Pasta therefore takes longer in the mountains; a lid with a valve, which keeps the pressure up, helps.",
];
