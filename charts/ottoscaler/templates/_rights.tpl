{{/* The rules of a service's Role, from files/rights.yaml. Takes a dict: root, component, and optionally leftOut, the values whose rights are not wanted. */}}
{{- define "ottoscaler.rules" -}}
{{- $name := include "ottoscaler.name" . -}}
{{- $leftOut := .leftOut | default list -}}
{{- $rules := list -}}
{{- range $right := index (.root.Files.Get "files/rights.yaml" | fromYaml) .component -}}
{{- if not (has ($right.value | default "") $leftOut) -}}
{{- $rule := dict "apiGroups" (list $right.group) "resources" (list $right.resource) "verbs" $right.verbs -}}
{{- if $right.own -}}{{- $_ := set $rule "resourceNames" (list $name) -}}{{- end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}
