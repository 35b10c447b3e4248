"use strict";
/* Daily Page, the news: dailypage.web, dailypage.web/topic/Sports, dailypage.web/news/n3 */
{
  const HOST = "dailypage.web";
  const topics = [...new Set(phone.data.news.map(({ topic }) => topic))];
  const top = (current) => [web.banner(HOST),
    widgets.chips(topics.map((name) => widgets.chip({ name, on: name === current,
      tap: () => phone.visit(phone.url(HOST, ["topic", name])) })))];
  const open = ({ id, title, date, topic }) => widgets.row({ name: title, title,
    subtitle: `${topic} · ${format.longDay(date)}`, role: "link",
    tap: () => phone.visit(phone.url(HOST, ["news", id])) });

  const listing = (topic) => [...top(topic),
    widgets.list(phone.data.news.filter((item) => !topic || item.topic === topic)
    .sort(phone.by(({ date }) => date, -1)).map(open))];

  const article = (id) => {
    const item = phone.find(phone.data.news, id);
    return item && [...top(item.topic), h("div.article-title", null, item.title),
      h("div.article-date", null, format.longDay(item.date)), widgets.paragraph(item.text)];
  };

  phone.site(HOST, (_, [part, name]) => {
    if (part === undefined) return { body: listing() };
    if (part === "topic") return { body: listing(name) };
    return part === "news" && { body: article(name) };
  });
}
