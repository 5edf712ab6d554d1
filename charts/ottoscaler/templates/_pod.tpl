{{/* What all pods of this chart have in common: the three services and the front door. */}}

{{- define "ottoscaler.podSecurityContext" -}}
{{- $profile := dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $profile (deepCopy (. | default dict)) | toYaml -}}
{{- end -}}

{{- define "ottoscaler.securityContext" -}}
{{- $profile := dict "allowPrivilegeEscalation" false "privileged" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- mergeOverwrite $profile (deepCopy (. | default dict)) | toYaml -}}
{{- end -}}

{{/* A pod's metadata. Takes a dict: root, component, values, checksums (a dict of annotations). */}}
{{- define "ottoscaler.podMetadata" -}}
labels:
  {{- include "ottoscaler.labels" (dict "root" .root "component" .component "extra" .values.podLabels) | nindent 2 }}
{{- $metrics := .root.Values.metrics -}}
{{- $scrape := ternary (dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString $metrics.port)) dict (and $metrics.enabled $metrics.annotations) -}}
{{- $annotations := merge (dict "kubectl.kubernetes.io/default-container" .component) .values.podAnnotations (.checksums | default dict) $scrape (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml $annotations | nindent 2 }}
{{- end -}}

{{/* The part of a pod's spec that is about the pod as a whole. Takes a dict: root, component, values, token, grace. */}}
{{- define "ottoscaler.podSpec" -}}
serviceAccountName: {{ include "ottoscaler.serviceAccountName" . }}
automountServiceAccountToken: {{ .token }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ if kindIs "invalid" .values.terminationGracePeriodSeconds }}{{ .grace }}{{ else }}{{ .values.terminationGracePeriodSeconds | int }}{{ end }}
securityContext:
  {{- include "ottoscaler.podSecurityContext" .values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "ottoscaler.selector" . | nindent 14 }}
  {{- end }}
{{- with .values.initContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The three probes. Takes a dict: values, probe (the handler). */}}
{{- define "ottoscaler.probes" -}}
{{- $handler := .probe -}}
startupProbe:
  {{- mergeOverwrite (merge (dict "periodSeconds" 1 "timeoutSeconds" 2 "failureThreshold" 300) $handler) (deepCopy .values.startupProbe) | toYaml | nindent 2 }}
livenessProbe:
  {{- mergeOverwrite (merge (dict "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 3) $handler) (deepCopy .values.livenessProbe) | toYaml | nindent 2 }}
readinessProbe:
  {{- mergeOverwrite (merge (dict "periodSeconds" 2 "timeoutSeconds" 2 "failureThreshold" 2) $handler) (deepCopy .values.readinessProbe) | toYaml | nindent 2 }}
{{- end -}}

{{/* A ServiceAccount and a PodDisruptionBudget. Takes a dict: root, component, values. */}}
{{- define "ottoscaler.company" -}}
{{- if .values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "ottoscaler.metadata" (dict "root" .root "component" .component "name" (include "ottoscaler.serviceAccountName" .) "annotations" .values.serviceAccount.annotations) | nindent 2 }}
automountServiceAccountToken: false
{{- end }}
{{- if .values.pdb.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "ottoscaler.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.pdb.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "ottoscaler.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
