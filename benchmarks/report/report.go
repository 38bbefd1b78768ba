// Package report writes the results of a benchmark as one HTML page: text,
// tables and plots as inline SVG, nothing from outside, readable on a light
// screen and on a dark one.
package report

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// Page is a report. It is not safe for concurrent use.
type Page struct {
	Title string
	Lead  string
	Facts []Fact

	sections []section
}

// Fact is a line about the circumstances.
type Fact struct{ Name, Value string }

// Block is a part of a page: [Table], [Bullets], [Bars], [Lines], [Timeline],
// [Code] or [Text].
type Block interface{ write(b *strings.Builder) }

type section struct {
	heading string
	block   Block
}

// Add appends a block under a heading; an empty heading continues the section.
func (p *Page) Add(heading string, block Block) {
	p.sections = append(p.sections, section{heading, block})
}

// Write writes the page.
func (p *Page) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"+
		"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"+
		"<meta name=\"color-scheme\" content=\"light dark\">\n<title>%s</title>\n<style>%s</style>\n</head>\n<body>\n<main>\n",
		html.EscapeString(p.Title), style)
	fmt.Fprintf(&b, "<h1>%s</h1>\n<p class=\"lead\">%s</p>\n", html.EscapeString(p.Title), html.EscapeString(p.Lead))
	if len(p.Facts) > 0 {
		b.WriteString("<dl>\n")
		for _, f := range p.Facts {
			fmt.Fprintf(&b, "<dt>%s</dt><dd>%s</dd>\n", html.EscapeString(f.Name), html.EscapeString(f.Value))
		}
		b.WriteString("</dl>\n")
	}
	for _, s := range p.sections {
		if s.heading != "" {
			fmt.Fprintf(&b, "<h2>%s</h2>\n", html.EscapeString(s.heading))
		}
		s.block.write(&b)
	}
	b.WriteString("</main>\n</body>\n</html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Text is a paragraph.
type Text string

func (t Text) write(b *strings.Builder) { fmt.Fprintf(b, "<p>%s</p>\n", html.EscapeString(string(t))) }

// Code is preformatted text.
type Code string

func (c Code) write(b *strings.Builder) {
	fmt.Fprintf(b, "<pre>%s</pre>\n", html.EscapeString(string(c)))
}

// Mark is a verdict, shown by colour and, where there is text, by a sign.
type Mark int

// The verdicts.
const (
	Plain Mark = iota
	Good
	Bad
)

func (m Mark) class() string { return [...]string{"plain", "good", "bad"}[m] }

func (m Mark) sign() string { return [...]string{"", "✓ ", "✗ "}[m] }

// Table is a table of text.
type Table struct {
	Caption string
	Head    []string
	// Numeric lists the columns that are aligned right.
	Numeric []int
	Rows    []Row
}

// Row of a table; its mark shows in the last cell.
type Row struct {
	Cells []string
	Mark  Mark
}

func (t Table) write(b *strings.Builder) {
	numeric := map[int]bool{}
	for _, i := range t.Numeric {
		numeric[i] = true
	}
	cell := func(tag, class, text string, column int) {
		if numeric[column] {
			class = strings.TrimSpace(class + " num")
		}
		if class != "" {
			class = fmt.Sprintf(" class=%q", class)
		}
		fmt.Fprintf(b, "<%s%s>%s</%s>", tag, class, html.EscapeString(text), tag)
	}
	b.WriteString("<div class=\"scroll\"><table>\n")
	if t.Caption != "" {
		fmt.Fprintf(b, "<caption>%s</caption>\n", html.EscapeString(t.Caption))
	}
	b.WriteString("<thead><tr>")
	for i, h := range t.Head {
		cell("th", "", h, i)
	}
	b.WriteString("</tr></thead>\n<tbody>\n")
	for _, r := range t.Rows {
		b.WriteString("<tr>")
		for i, c := range r.Cells {
			class := ""
			if i == len(r.Cells)-1 && r.Mark != Plain {
				class, c = r.Mark.class(), r.Mark.sign()+c
			}
			cell("td", class, c, i)
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody>\n</table></div>\n")
}

const style = `
:root {
  --paper: #ffffff; --ink: #1c2430; --soft: #5c6673; --line: #d8dde3; --panel: #f5f7f9;
  --this: #2563a8; --base: #8d97a3; --good: #1d7a4a; --bad: #b3391f; --third: #8a5a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e4e8ec; --soft: #9aa5b1; --line: #323a43; --panel: #1c2228;
    --this: #6ea8e6; --base: #77828e; --good: #58c08a; --bad: #f0836a; --third: #d9a441;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; margin: 0 0 8px; }
h2 { font-size: 18px; margin: 36px 0 10px; }
.lead { color: var(--soft); max-width: 70ch; margin: 0 0 20px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; padding: 14px 18px; background: var(--panel); border-radius: 8px; }
dt { color: var(--soft); } dd { margin: 0; }
figure { margin: 0; } figcaption, caption { color: var(--soft); font-size: 13px; margin: 0 0 6px; text-align: left; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { padding: 6px 10px 6px 0; }
.num { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td:first-child { white-space: nowrap; } td.good { color: var(--good); white-space: nowrap; } td.bad { color: var(--bad); white-space: nowrap; }
pre { background: var(--panel); border-radius: 8px; padding: 14px 18px; overflow-x: auto; font-size: 12.5px; }
svg { display: block; width: 100%; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); } svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg .grid { stroke: var(--line); } svg .goal { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .this { fill: var(--this); } svg .base { fill: var(--base); } svg .good { fill: var(--good); } svg .bad { fill: var(--bad); }
svg .plain { fill: var(--this); } svg .bar { opacity: .55; }
svg .dot { stroke: var(--paper); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; } svg .s0 { stroke: var(--this); } svg .s1 { stroke: var(--base); } svg .s2 { stroke: var(--third); }
svg .line.thin { stroke-width: 1.2; } svg .band { fill: var(--third); opacity: .18; } svg .band.bad { fill: var(--bad); opacity: .35; }
svg text.s0 { stroke: none; fill: var(--this); } svg text.s1 { stroke: none; fill: var(--base); } svg text.s2 { stroke: none; fill: var(--third); }
`
