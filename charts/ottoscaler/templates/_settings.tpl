{{/* Settings: values become environment variables. */}}

{{/* A value as one writes it into a variable; YAML's numbers arrive as floats, so whole ones are printed without an exponent. */}}
{{- define "ottoscaler.scalar" -}}
{{- if kindIs "slice" . -}}
{{- $parts := list -}}
{{- range . }}{{ $parts = append $parts (include "ottoscaler.scalar" .) }}{{ end -}}
{{- join "," $parts -}}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* A container's env. Takes a dict: variables (what the chart decides, by name), settings (a dict of prefix → values, which win). */}}
{{- define "ottoscaler.env" -}}
{{- $all := deepCopy .variables -}}
{{- range $layer := .settings -}}
{{- range $key, $value := $layer.values -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $all (printf "%s_%s" $layer.prefix (upper $key)) (include "ottoscaler.scalar" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $all | sortAlpha }}
- name: {{ $name }}
  value: {{ get $all $name | quote }}
{{- end }}
{{- end -}}

{{/*
What is said of a pod of ours in traces and by its OTLP metrics: variables that OpenTelemetry itself reads. Nothing where nothing is sent.
Takes root, component, values, and stateful.
*/}}
{{- define "ottoscaler.telemetry" -}}
{{- $tracing := .root.Values.tracing -}}
{{- if or $tracing.endpoint .root.Values.runtime.otlp_endpoint .values.runtime.otlp_endpoint -}}
{{- $told := list
      "k8s.namespace.name=$(POD_NAMESPACE)" "k8s.pod.name=$(POD_NAME)" "k8s.pod.uid=$(POD_UID)" "k8s.node.name=$(NODE_NAME)"
      (printf "k8s.container.name=%s" .component)
      (printf "k8s.%s.name=%s" (ternary "statefulset" "deployment" (default false .stateful)) (include "ottoscaler.name" .))
      (printf "service.instance.id=$(POD_UID)") -}}
{{- range $name, $value := $tracing.resourceAttributes }}{{ $told = append $told (printf "%s=%s" $name $value) }}{{ end }}
{{- range $name, $path := dict "POD_NAMESPACE" "metadata.namespace" "POD_NAME" "metadata.name" "POD_UID" "metadata.uid" "NODE_NAME" "spec.nodeName" }}
- name: {{ $name }}
  valueFrom: {fieldRef: {fieldPath: {{ $path }}}}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $told | quote }}
{{- with $tracing.headersSecret.name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $tracing.headersSecret.key }}}}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Seconds from SIGTERM to SIGKILL: the stages of a stop (files/stop.yaml, generated from otto_runtime.server), and some to close what is open. */}}
{{- define "ottoscaler.stopSeconds" -}}
{{- $stop := .root.Files.Get "files/stop.yaml" | fromYaml -}}
{{- $settings := merge (dict) .values.runtime .root.Values.runtime $stop.settings -}}
{{- addf $settings.drain_delay $settings.stop_grace $stop.fixed $stop.closing | ceil | int -}}
{{- end -}}

{{/* Bytes of a Kubernetes quantity with a whole number, as "10Gi". */}}
{{- define "ottoscaler.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[A-Za-z]*$" .) | int64) -}}
{{- end -}}
